// @ts-check
// Colours of groups on the map. Twenty that stay apart also for eyes that don't tell red from green (chosen by greatest
// least distance in OKLab, as seen by normal, deuteranopic and protanopic eyes, at 3:1 or more on the page), one set for
// each theme; from the twenty-first group on hues by the golden ratio, in three lightnesses. A group's number fixes its colour.

const LIGHT = ["#7c4fd8", "#04a322", "#563000", "#0022a0", "#d664a3", "#640061", "#066357", "#768edc", "#db7213", "#265496", "#6b7941", "#8f5f83", "#8c352a", "#be8170", "#4c36be", "#9c72fe", "#4493a1", "#92007e", "#59273d", "#576cb7"];
const DARK = ["#2c84ff", "#c3fb53", "#f8b6fe", "#9a6051", "#3fb690", "#e7ad01", "#a73ab2", "#b0f6da", "#f07554", "#9699cf", "#fbc3a0", "#2a8082", "#7153dd", "#0fa626", "#da489e", "#f485fe", "#76c7cf", "#a16bd5", "#a4c56e", "#cc2a1b"];
const FEW = LIGHT.length;
const NONE = { light: [139, 139, 134], dark: [125, 131, 138] };

/** Whether the page is dark now, by choice or by the system. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Call `work` when the theme changes, until the returned function is called. */
export function onTheme(work) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = new MutationObserver(work);
  chosen.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  system.addEventListener("change", work);
  return () => {
    chosen.disconnect();
    system.removeEventListener("change", work);
  };
}

/** `[red, green, blue]`, 0 to 255, of group `id`; −1 is no group. */
export function groupColor(id, dark) {
  if (id < 0) return dark ? NONE.dark : NONE.light;
  if (id < FEW) return hex((dark ? DARK : LIGHT)[id]);
  const hue = ((id * 0.618033988749895) % 1) * 2 * Math.PI;
  const step = id % 3;
  return oklch((dark ? 0.66 : 0.48) + step * (dark ? 0.1 : 0.08), 0.15, hue);
}

export const cssColor = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

function hex(text) {
  const value = parseInt(text.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

// Ottosson, "A perceptual color space for image processing", 2020; chroma is lowered until the colour can be shown.
function oklch(lightness, chroma, hue) {
  for (let c = chroma; ; c *= 0.9) {
    const rgb = linear(lightness, c * Math.cos(hue), c * Math.sin(hue));
    if (c < 0.02 || rgb.every((value) => value > -0.002 && value < 1.002)) return rgb.map(encode);
  }
}

function linear(L, a, b) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}

function encode(value) {
  const kept = Math.min(1, Math.max(0, value));
  return Math.round(255 * (kept <= 0.0031308 ? 12.92 * kept : 1.055 * kept ** (1 / 2.4) - 0.055));
}
