// Each built file once more as gzip and as Brotli, so that the server compresses nothing while somebody waits.
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const walk = (folder) =>
  readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? walk(path) : [path];
  });

let plain = 0;
let small = 0;
for (const path of walk("../src/modelyard/gateway/console")) {
  if (!/\.(js|css|html|svg)$/.test(path)) continue;
  const data = readFileSync(path);
  const brotli = brotliCompressSync(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
  writeFileSync(`${path}.gz`, gzipSync(data, { level: 9 }));
  writeFileSync(`${path}.br`, brotli);
  plain += data.length;
  small += brotli.length;
}
console.log(`compressed: ${Math.round(plain / 1024)} kB to ${Math.round(small / 1024)} kB`);
