// An encoder by the page's own loader, in Node: its folder's address, texts; prints what it makes of them, and by what.
const [script, address, texts] = process.argv.slice(2);
globalThis.location = new URL(address); // a page's: what addresses are read from
globalThis.navigator ??= { hardwareConcurrency: 1 }; // Node 20 has none
const { load } = await import(script);
const model = await load(address, { store: "none", threads: 1 });
const all = JSON.parse(texts);
const ranks = model.task === "text-ranking";
const results = ranks ? await model.rank(all[0], all.slice(1)) : await model.embed(all);
console.log(JSON.stringify({ engine: model.choice.engine, results: results.map((result) => (ranks ? result : [...result])) }));
