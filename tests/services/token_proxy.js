// Adds a bearer token to every request: the conformance suite has no option for one.
// node token_proxy.js TARGET_PORT TOKEN; prints its own port.
const http = require("node:http");
const [target, token] = process.argv.slice(2);
const proxy = http.createServer((asked, answer) => {
  const host = (asked.headers.host || "").replace(/:\d+$/, `:${target}`);
  const headers = { ...asked.headers, host, authorization: `Bearer ${token}` };
  const options = { host: "127.0.0.1", port: target, path: asked.url, method: asked.method, headers };
  const request = http.request(options, (found) => {
    answer.writeHead(found.statusCode, found.headers);
    answer.flushHeaders();
    found.pipe(answer);
  });
  request.on("error", () => answer.destroy());
  answer.on("close", () => request.destroy());
  asked.pipe(request);
});
proxy.listen(0, "127.0.0.1", () => console.log(proxy.address().port));
