// @ts-check
// What every view knows: the run, its groups by number, the version of the corrections. Views hear of edits, this tab's
// and others', by the "change" event.

import { get } from "./api.js";

const POLL = 2000;
const MANY = 2000; // groups that the first view doesn't wait for
const FEW = 12; // changed groups that are read one by one

class Store extends EventTarget {
  run = null;
  version = -1;
  /** id -> {id, name, size, locked, representatives…}, all of the run's groups. */
  groups = new Map();
  #timer = 0;
  #loading = null;

  /** Resolves when all groups are known; of very many that is after the first view is drawn. */
  ready = null;

  /** Load the run and its groups, then look every two seconds for what others change. */
  async open() {
    this.run = await get("api/run");
    this.version = this.run.version;
    this.ready = this.loadGroups();
    if (this.run.n_groups <= MANY) await this.ready;
    else this.ready.then(() => this.#tell({}), () => {});
    this.#poll();
  }

  get readOnly() {
    return Boolean(this.run?.read_only);
  }

  /** The name a person reads: the group's own, or "Group 7". */
  label(id) {
    if (id === null || id === undefined || id < 0) return "No group";
    return this.groups.get(id)?.name || `Group ${id}`;
  }

  /** Read all groups again; calls in between share one request. */
  loadGroups() {
    this.#loading ??= this.#readGroups().finally(() => {
      this.#loading = null;
    });
    return this.#loading;
  }

  async #readGroup(id) {
    try {
      this.groups.set(id, await get(`api/groups/${id}`));
    } catch (error) {
      if (error.status !== 404) throw error;
      this.groups.delete(id);
    }
  }

  async #readGroups() {
    const limit = 5000;
    const all = new Map();
    for (let offset = 0, total = 1; offset < total; offset += limit) {
      const page = await get("api/groups", { sort: "number", offset, limit, brief: 1 });
      total = page.total;
      for (const group of page.groups) all.set(group.id, group);
      if (!page.groups.length) break;
    }
    this.groups = all;
  }

  /** The run was opened again with other groups: read all of it, and tell "reopen". */
  async reopen() {
    const run = await get("api/run");
    if (run.opening === this.run.opening) return;
    this.run = run;
    this.version = run.version;
    this.#loading = null; // what is being read is of the groups before
    await this.loadGroups();
    this.dispatchEvent(new Event("reopen"));
  }

  /** Take note of a version: of an own edit's answer, or seen by asking. Views are told when it is new. */
  async note(version, { own = false, groups = null } = {}) {
    if (version === this.version) return;
    const next = version === this.version + 1;
    this.version = version;
    if (next && own && groups?.length && groups.length <= FEW) await Promise.all(groups.map((id) => this.#readGroup(id)));
    else await this.loadGroups();
    this.#tell({ own, groups });
  }

  #tell({ own = false, groups = null }) {
    this.dispatchEvent(new CustomEvent("change", { detail: { version: this.version, own, groups } }));
  }

  /** Listen until the returned function is called. */
  onChange(listener) {
    const heard = (event) => listener(event.detail);
    this.addEventListener("change", heard);
    return () => this.removeEventListener("change", heard);
  }

  #poll() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      if (!document.hidden) await this.look();
      this.#poll();
    }, POLL);
  }

  /** Ask once whether anybody changed anything. */
  async look() {
    try {
      const { version, opening } = await get("api/version");
      this.#say(true);
      if (opening === this.run.opening) await this.note(version);
      else await this.reopen();
    } catch (error) {
      this.#say(false, error.message);
    }
  }

  #reached = true;

  #say(reached, text = "") {
    if (reached === this.#reached) return;
    this.#reached = reached;
    this.dispatchEvent(new CustomEvent("reach", { detail: { reached, text } }));
  }
}

export const store = new Store();
