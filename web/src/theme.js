// Dark or light: as the system says, or as was chosen here or on the dashboard.
import { $, choices } from "./dom.js";

const prefersLight = matchMedia("(prefers-color-scheme: light)");

/** Follows the choice; `repaint` is called when the colours changed. */
export function startTheme(repaint) {
  const html = document.documentElement;
  const show = () => {
    const chosen = choices.get("theme");
    if (chosen === "dark" || chosen === "light") html.dataset.theme = chosen;
    else if (!html.dataset.theme) delete html.dataset.theme;
    const shown = html.dataset.theme ?? (prefersLight.matches ? "light" : "dark");
    html.dataset.shown = shown;
    $("theme").setAttribute("aria-label", `Switch to the ${shown === "light" ? "dark" : "light"} theme`);
    repaint();
  };
  $("theme").addEventListener("click", () => {
    const next = html.dataset.shown === "light" ? "dark" : "light";
    choices.set("theme", next);
    html.dataset.theme = next;
    show();
  });
  prefersLight.addEventListener("change", show);
  show();
}
