/** A helper of the engine: it joins, and returns when the decoder is stopped. */
import { help, type Helper } from "./engine";

onmessage = ({ data }: MessageEvent<Helper>) => {
  help(data);
  close();
};
