/** A helper of the engine: it joins, and returns when the model is stopped; it says both. */
import { help, type Helper } from "./engine-memory";

onmessage = ({ data }: MessageEvent<Helper>) => {
  postMessage("joining");
  help(data);
  postMessage("gone");
  close();
};
