// What OpenAI's client for Node gets from a server, as JSON.
const OpenAI = require("openai").default;

async function main(url) {
  const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
  const asked = {
    model: "text",
    messages: [{ role: "user", content: "Why? 🙂" }],
    max_tokens: 20,
    seed: 1,
  };
  const whole = await client.chat.completions.create(asked);
  const stream = await client.chat.completions.create({
    ...asked,
    stream: true,
    stream_options: { include_usage: true },
  });
  let streamed = "";
  let streamedUsage = null;
  for await (const chunk of stream) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
    streamedUsage = chunk.usage ?? streamedUsage;
  }
  const vectors = await client.embeddings.create({ model: "embed", input: ["A cat.", "A dog."] });
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  const refused = async (body) => {
    try {
      await client.chat.completions.create(body);
    } catch (error) {
      return { status: error.status, code: error.code };
    }
  };
  const told = {
    answer: whole.choices[0].message.content,
    usage: whole.usage,
    streamed,
    streamed_usage: streamedUsage,
    vectors: vectors.data.map((entry) => entry.embedding),
    models: models.sort(),
    unknown: await refused({ ...asked, model: "nobody" }),
    long: await refused({ ...asked, messages: [{ role: "user", content: "word ".repeat(600) }] }),
  };
  console.log(JSON.stringify(told));
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
