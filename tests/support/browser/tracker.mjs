// The WebSocket tracker of the npm package `bittorrent-tracker`: `node tracker.mjs path/to/node_modules ADDRESS PORT`.
// Prints `listening` once it is.
import { pathToFileURL } from "node:url";

const [modules, address, port] = process.argv.slice(2);
const { default: Server } = await import(pathToFileURL(`${modules}/bittorrent-tracker/server.js`));
const server = new Server({ udp: false, http: false, ws: true, stats: false });
server.on("error", (error) => { console.error(error); process.exit(1); });
server.on("warning", (warning) => console.error(`warning: ${warning.message}`));
server.listen(Number(port), address, () => console.log("listening"));
