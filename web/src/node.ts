/** What the tests in Node take: the parts that need no browser. */
export * from "./engine";
export * from "./errors";
export * from "./manifest";
export * from "./random";
export * from "./sampler";
export * from "./description";
