/** Where weights stay between visits: files by their hash, read and written in ranges.
 *
 * Nothing is trusted for being there: who reads a range compares its hash. So there is no state
 * beside the bytes, and an interrupted download goes on with whatever range is missing.
 */

export interface Store {
  readonly kind: "opfs" | "cache" | "none";
  /** Fill `into` with a range of a file; false where it is not there. */
  read(file: string, offset: number, into: Uint8Array<ArrayBuffer>): Promise<boolean>;
  write(file: string, offset: number, content: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Done with a file for now. */
  close(file: string): Promise<void>;
  /** Make room: remove files that were used least recently, but those. */
  evict(bytes: number, keep: Set<string>): Promise<void>;
  clear(): Promise<void>;
}

const FOLDER = "llmkg-lab";

export async function openStore(wanted: "auto" | "opfs" | "cache" | "none" = "auto"): Promise<Store> {
  if (wanted === "auto" || wanted === "opfs") {
    try {
      const root = await navigator.storage.getDirectory();
      const folder = await root.getDirectoryHandle(FOLDER, { create: true });
      const name = `probe-${crypto.randomUUID()}`; // one file is open in one tab at a time
      (await access(await folder.getFileHandle(name, { create: true }))).close();
      await folder.removeEntry(name);
      return new PrivateFiles(folder);
    } catch {
      // a private window, an old browser, or one where storage is full
    }
  }
  if (wanted !== "none" && wanted !== "opfs" && typeof caches !== "undefined") {
    try {
      return new Cached(await caches.open(FOLDER));
    } catch {
      // the same
    }
  }
  return new Nothing();
}

interface Access {
  read(into: Uint8Array, options: { at: number }): number;
  write(content: Uint8Array, options: { at: number }): number;
  getSize(): number;
  flush(): void;
  close(): void;
}

/** Synchronous access, which workers alone have. */
function access(file: FileSystemFileHandle): Promise<Access> {
  return (file as unknown as { createSyncAccessHandle(): Promise<Access> }).createSyncAccessHandle();
}

class PrivateFiles implements Store {
  readonly kind = "opfs";
  private readonly open = new Map<string, Promise<Access>>();

  constructor(private readonly folder: FileSystemDirectoryHandle) {}

  async read(file: string, offset: number, into: Uint8Array<ArrayBuffer>): Promise<boolean> {
    const handle = await this.handle(file);
    if (handle.getSize() < offset + into.length) return false;
    return handle.read(into, { at: offset }) === into.length;
  }

  async write(file: string, offset: number, content: Uint8Array<ArrayBuffer>): Promise<void> {
    const handle = await this.handle(file);
    if (handle.write(content, { at: offset }) !== content.length) {
      throw new DOMException("the storage is full", "QuotaExceededError");
    }
  }

  async close(file: string): Promise<void> {
    const handle = await this.open.get(file);
    this.open.delete(file);
    handle?.flush();
    handle?.close();
  }

  async evict(bytes: number, keep: Set<string>): Promise<void> {
    const files: { name: string; used: number; size: number }[] = [];
    for await (const [name, handle] of this.folder as unknown as AsyncIterable<[string, FileSystemFileHandle]>) {
      if (keep.has(name) || this.open.has(name)) continue;
      const file = await handle.getFile();
      files.push({ name, used: file.lastModified, size: file.size });
    }
    files.sort((a, b) => a.used - b.used);
    for (const { name, size } of files) {
      if (bytes <= 0) return;
      await this.folder.removeEntry(name).then(() => (bytes -= size)).catch(() => undefined);
    }
  }

  async clear(): Promise<void> {
    for (const file of [...this.open.keys()]) await this.close(file);
    await this.evict(Infinity, new Set());
  }

  private handle(file: string): Promise<Access> {
    let opened = this.open.get(file);
    if (!opened) {
      opened = this.folder.getFileHandle(file, { create: true }).then(access);
      this.open.set(file, opened);
      opened.catch(() => this.open.delete(file));
    }
    return opened;
  }
}

/** The Cache API: a range is an answer under an address that no server has. */
class Cached implements Store {
  readonly kind = "cache";

  constructor(private readonly cache: Cache) {}

  private address(file: string, offset: number, bytes: number): string {
    return `/${FOLDER}/${file}/${offset}-${bytes}`;
  }

  async read(file: string, offset: number, into: Uint8Array<ArrayBuffer>): Promise<boolean> {
    const answer = await this.cache.match(this.address(file, offset, into.length));
    const content = answer && new Uint8Array(await answer.arrayBuffer());
    if (content?.length !== into.length) return false;
    into.set(content);
    return true;
  }

  async write(file: string, offset: number, content: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.cache.put(this.address(file, offset, content.length), new Response(content));
  }

  async close(): Promise<void> {}

  async evict(bytes: number, keep: Set<string>): Promise<void> {
    for (const request of await this.cache.keys()) {
      const [, , file, range] = new URL(request.url).pathname.split("/");
      if (bytes <= 0) return;
      if (keep.has(file)) continue;
      bytes -= Number(range.split("-")[1]);
      await this.cache.delete(request);
    }
  }

  async clear(): Promise<void> {
    await this.evict(Infinity, new Set());
  }
}

class Nothing implements Store {
  readonly kind = "none";
  async read(): Promise<boolean> {
    return false;
  }
  async write(): Promise<void> {}
  async close(): Promise<void> {}
  async evict(): Promise<void> {}
  async clear(): Promise<void> {}
}
