// Taking the result away: downloads, and the commands for what is written beside the run.

import { openDialog } from "./dialogs.js";
import { copyText, h } from "./dom.js";
import { icon } from "./icons.js";
import { store } from "./store.js";
import { complain, toast } from "./toasts.js";

const ABOUT = {
  csv: ["CSV", "A table for spreadsheets: file, group, name, confidence, mark."],
  parquet: ["Parquet", "The same table, typed, for pandas, DuckDB and Arrow."],
  folders: ["Folders", "One folder for each group, with links to the images or copies."],
  imagefolder: ["Hugging Face image folder", "Folders and metadata.jsonl, for load_dataset(\"imagefolder\")."],
  coco: ["COCO", "Annotations as JSON, one category for each group."],
  fiftyone: ["FiftyOne", "A dataset that FiftyOne imports."],
  html: ["Static gallery", "Pages that open from disk, without Kinfold."],
  onnx: ["ONNX", "The classifier, to be run anywhere."],
  "embedding-atlas": ["Embedding Atlas", "A table that Embedding Atlas opens."],
};

export function showExport() {
  const downloads = store.run.export_formats;
  const written = Object.keys(ABOUT).filter((name) => !downloads.includes(name));
  openDialog({
    title: "Export",
    className: "wide",
    body: [
      h("p", { class: "soft" }, "With all corrections, names and confidences. Images marked wrong or noise have group −1."),
      h("div", { class: "downloads" }, downloads.map(download)),
      written.length > 0 && h("h3", {}, "Other formats, from the command line"),
      h("ul", { class: "commands" }, written.map(command)),
    ],
  });
}

function download(name) {
  const [title, text] = ABOUT[name] ?? [name, ""];
  return h("a", { class: "download", href: `api/export/${name}`, download: `${stem()}.${name}` }, icon("export"), h("span", {}, h("b", {}, `Download ${title}`), h("span", { class: "soft small" }, text)));
}

const stem = () => (store.run.path ?? "run").split("/").filter(Boolean).at(-1)?.replace(/\.kinfold$/, "") ?? "run";

function command(name) {
  const [title, text] = ABOUT[name];
  const line = lineOf(name);
  const copy = () => copyText(line).then(() => toast("The command is copied."), complain);
  return h(
    "li",
    {},
    h("p", {}, h("b", {}, title), " ", h("span", { class: "soft" }, text)),
    h("div", { class: "command" }, h("code", { tabindex: "0" }, line), h("button", { type: "button", class: "ghost square", "aria-label": `Copy the command for ${title}`, title: "Copy", onclick: copy }, icon("copy"))),
  );
}

// The server gives the beginning: `kinfold export RUN --to`.
const lineOf = (name) => `${store.run.commands?.export ?? `kinfold export ${quoted(store.run.path)} --to`} ${name}`;

const quoted = (path) => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`);
