// Builds the page into dist/page, which the hub takes in when it is compiled.
import { readFileSync } from "node:fs";
import { defineConfig } from "vite";

/** What the page and the dashboard have in common, in place of `<!-- shared: NAME -->`. */
const shared = {
  name: "shared",
  transformIndexHtml: {
    order: "pre",
    handler: (html) => html.replaceAll(/<!-- shared: (\w+) -->\n/g, (_, name) => readFileSync(`../server/assets/shared/${name}.html`, "utf8")),
  },
};

export default defineConfig({
  // The hub may stand below any path, so the page asks for its parts relative to itself.
  base: "./",
  plugins: [shared],
  build: {
    outDir: "dist/page",
    emptyOutDir: true,
    target: "es2023",
    assetsInlineLimit: 0,
    // No script may stand in the page, so no polyfill is put into it either.
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
    reportCompressedSize: false,
    chunkSizeWarningLimit: 1000,
    rollupOptions: {
      input: { page: "index.html", sw: "src/sw.js" },
      output: {
        // A service worker is known by its address: it cannot have a hash in its name.
        entryFileNames: (chunk) => (chunk.name === "sw" ? "sw.js" : "assets/[name]-[hash].js"),
      },
    },
  },
});
