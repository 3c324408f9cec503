// A long way between a tab and whom it is told of: relays that hold each datagram back for a while, in both directions.
// Loopback hides what happens over one. What goes by is counted, so that a test can tell how often data is acknowledged.
import { createSocket } from "node:dgram";

/** Datagrams of at least so many bytes carry data; shorter ones acknowledge, ask for blocks, or check the way. */
const DATA_BYTES_MIN = 600;
const SOCKET_BYTES = 4 << 20;

async function bound(address) {
  const socket = createSocket("udp4");
  await new Promise((resolve) => socket.bind(0, address, resolve));
  socket.setRecvBufferSize(SOCKET_BYTES);
  socket.setSendBufferSize(SOCKET_BYTES);
  socket.unref();
  return socket;
}

export class Path {
  #delayMs;
  #relays = new Map();
  #told = { data: 0, short: 0 };

  /** Of so many milliseconds each way. */
  constructor(delayMs) { this.#delayMs = delayMs; }

  /** Datagrams with data that left the tab, and short ones that came back. */
  get told() { return this.#told; }

  /** A description in which relays stand in the places of its addresses; what they are not for is left out. */
  async stretch(description) {
    const lines = [];
    for (const line of description.split("\r\n")) {
      const candidate = /^(a=candidate:\S+ \d+ udp \d+) (\d+\.\d+\.\d+\.\d+) (\d+) (typ host.*)$/i.exec(line);
      if (candidate) {
        const [, head, address, port, tail] = candidate;
        const target = `${address}:${port}`;
        if (!this.#relays.has(target)) this.#relays.set(target, this.#relay(address, Number(port)));
        lines.push(`${head} 127.0.0.1 ${await this.#relays.get(target)} ${tail}`);
      } else if (!line.startsWith("a=candidate:")) lines.push(line);
    }
    return lines.join("\r\n");
  }

  /** Stands in front of an address; the port where it does. Who comes has a socket of its own to there, as behind a router. */
  async #relay(address, port) {
    const front = await bound("127.0.0.1"), flows = new Map();
    front.on("message", async (datagram, { address: from, port: fromPort }) => {
      const sender = `${from}:${fromPort}`;
      if (datagram.length >= DATA_BYTES_MIN) this.#told.data += 1;
      if (!flows.has(sender)) flows.set(sender, (async () => {
        const back = await bound("0.0.0.0");
        back.on("message", (answer) => {
          if (answer.length < DATA_BYTES_MIN) this.#told.short += 1;
          setTimeout(() => front.send(answer, fromPort, from), this.#delayMs);
        });
        return back;
      })());
      const back = await flows.get(sender);
      // Timers of one length fire in the order in which they were set.
      setTimeout(() => back.send(datagram, port, address), this.#delayMs);
    });
    return front.address().port;
  }
}
