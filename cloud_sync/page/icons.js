// Signs, drawn on a 24 x 24 grid. They always stand beside a word, so they are hidden from screen readers.

const PATHS = {
  incident: "M8 2.5h8L21.5 8v8L16 21.5H8L2.5 16V8zM12 7v6M12 16.4v.2",
  overdue: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5.3l3.4 2",
  attention: "M12 3.5 22 20.5H2zM12 10v5M12 17.4v.2",
  ok: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM7.8 12.3l2.9 2.9 5.6-6",
  warning: "M12 3.5 22 20.5H2zM12 10v5M12 17.4v.2",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v6M12 7.4v.2",
  question: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM9.3 9.4a2.8 2.8 0 1 1 3.9 2.6c-.8.4-1.2.9-1.2 1.9M12 16.9v.2",
  close: "M5.5 5.5l13 13M18.5 5.5l-13 13",
  check: "M4.5 12.5l5 5 10-11",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5 21 21",
  fleet: "M3 16v-3.5l2-.8L7 7h9l3 4.6 2 .9V16h-2.2M15 16H9M5.2 16H3M7 18.2a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.4zM17 18.2a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.4z",
  incidents: "M6 17V11a6 6 0 1 1 12 0v6l1.6 1.8H4.4zM10 21h4M12 5V3",
  titles: "M6 2.8h8.5L19 7.3v13.9H6zM14 3v5h5M9 12.5h7M9 16h7",
  completeness: "M4 5h16v15.5H4zM4 9.5h16M8.5 2.8V6M15.5 2.8V6M8.3 14.6l2.4 2.4 4.8-4.8",
  health: "M2.5 12.5H7l2.4-7 4.6 13.5 2.6-6.5h4.9",
  log: "M4 4h16v4.6H4zM4 9.8h16v4.5H4zM4 15.5h16V20H4zM7 6.3h.2M7 12h.2M7 17.8h.2",
  admin: "M12 15.4a3.4 3.4 0 1 0 0-6.8 3.4 3.4 0 0 0 0 6.8zM12 2.5v3M12 18.5v3M2.5 12h3M18.5 12h3M5.3 5.3l2.1 2.1M16.6 16.6l2.1 2.1M18.7 5.3l-2.1 2.1M7.4 16.6l-2.1 2.1",
  audit: "M2.5 12C5 7.5 8.3 5.5 12 5.5s7 2 9.5 6.5c-2.5 4.5-5.8 6.5-9.5 6.5S5 16.5 2.5 12zM12 14.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6z",
  alarms: "M12 13a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.4zM12 13v8M7.5 15.3a6 6 0 1 1 9 0M4.8 18a10 10 0 1 1 14.4 0",
  user: "M12 12a4.2 4.2 0 1 0 0-8.4 4.2 4.2 0 0 0 0 8.4zM4 21c.6-4.2 3.8-6.2 8-6.2s7.4 2 8 6.2",
  logout: "M14 4H5v16h9M10 12h11M17.5 8.5 21 12l-3.5 3.5",
  theme: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 3v18M12 7l6-.5M12 12h8.500M12 17l6 .5",
  language: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM3 12h18M12 3c3 3 3.8 6 3.8 9s-.8 6-3.8 9c-3-3-3.8-6-3.8-9S9 6 12 3z",
  more: "M5 12h.2M12 12h.2M19 12h.2",
  menu: "M4 6.500h16M4 12h16M4 17.500h16",
  right: "M9 5l7 7-7 7",
  left: "M15 5l-7 7 7 7",
  down: "M5 9l7 7 7-7",
  up: "M5 15l7-7 7 7",
  download: "M12 3.500v11M7.5 10.5 12 15l4.5-4.500M4 20h16",
  print: "M7 9V3.500h10V9M7 17H4V9h16v8h-3M7 14h10v6.500H7z",
  external: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
  lock: "M5 11h14v9.500H5zM8 11V8a4 4 0 1 1 8 0v3M12 15v2",
  unlock: "M5 11h14v9.500H5zM8 11V7a4 4 0 0 1 7.6-1.600M12 15v2",
  pin: "M12 21.500c4.5-5 6.8-8.4 6.8-11.500a6.8 6.8 0 1 0-13.6 0c0 3.1 2.3 6.5 6.8 11.500zM12 12.500a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z",
  copy: "M8 8h12v12.500H8zM16 8V3.500H4V16h4",
  plus: "M12 4.500v15M4.5 12h15",
  minus: "M4.5 12h15",
  refresh: "M20 5v5h-5M4 19v-5h5M19.6 10A8 8 0 0 0 5.5 7.500M4.4 14a8 8 0 0 0 14.1 2.5",
  filter: "M3.5 5h17l-6.5 8v6.500l-4-2V13z",
  edit: "M4 20l1-4.500L16.5 4 20 7.5 8.5 19z",
  tyre: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 15.500a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z",
  radio: "M12 14v7M12 13.500a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM8 16a5.5 5.5 0 0 1 0-8M16 16a5.5 5.5 0 0 0 0-8M5 19a10 10 0 0 1 0-14M19 19a10 10 0 0 0 0-14",
  battery: "M3 7.500h15.500v9H3zM21 10.500v3M6 10.500v3M9 10.500v3",
  key: "M8 16.500a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM12.5 12H21v3.500M17 12v2.5",
  note: "M4 4h16v12l-4.5 4.500H4zM15.5 20V16H20M8 9h8M8 12.500h5",
  person_add: "M10 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM2.5 20.500c.5-4 3.5-5.7 7.5-5.7 1.5 0 2.8.2 3.9.7M18 14v7M14.5 17.500h7",
  escalate: "M12 20V5M5.5 11 12 4.500l6.5 6.5",
};
const NS = "http://www.w3.org/2000/svg";

/** The outline of a sign on the 24 x 24 grid, for a canvas. */
export function outline(name) {
  return PATHS[name] || PATHS.question;
}

/** A sign as <svg>. */
export function icon(name, size = null) {
  const node = document.createElementNS(NS, "svg");
  node.setAttribute("viewBox", "0 0 24 24");
  node.setAttribute("class", `icon icon-${name}`);
  node.setAttribute("aria-hidden", "true");
  node.setAttribute("focusable", "false");
  if (size) {
    node.setAttribute("width", size);
    node.setAttribute("height", size);
  }
  const path = document.createElementNS(NS, "path");
  path.setAttribute("d", outline(name));
  node.append(path);
  return node;
}
