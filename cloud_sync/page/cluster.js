// Clusters of markers: pure functions on numbers, no map and no page.

export const CELL_PX = 76;
const TILE_PX = 256;
const COLUMN = 2 ** 22;
const NONE = [];

/** Web Mercator of WGS-84 degrees as [x, y] within 0 .. 1, y downwards. Latitudes beyond 85 are cut. */
export function project(lat, lon) {
  const sine = Math.sin((Math.max(-85, Math.min(85, lat)) * Math.PI) / 180);
  return [lon / 360 + 0.5, 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)];
}

/** Groups points for one zoom.
 *
 *  points: [{x, y, state}], x and y as `project` gives them, state an index with 0 the worst.
 *  Points in one cell of a grid become a cluster at their mean; clusters so near to each other that their marks would
 *  overlap (0.95 of a cell beside, 0.5 above) are joined, so that the edges of the grid do not show.
 *  Gives [{x, y, worst, count, members (indexes into points), west, east, north, south}], the best state first, so
 *  that the worst is drawn last and lies on top. Every point is in exactly one cluster. */
export function cluster(points, zoom, cellPx = CELL_PX) {
  const size = cellPx / (TILE_PX * 2 ** zoom);
  const cells = new Map();
  points.forEach((point, index) => {
    const key = keyOf(point.x, point.y, size);
    const cell = cells.get(key);
    if (cell) add(cell, point, index);
    else cells.set(key, start(point, index));
  });
  const order = [...cells.values()].sort((a, b) => b.count - a.count || a.worst - b.worst || a.x - b.x || a.y - b.y);
  const taken = new Map();
  const found = [];
  for (const cell of order) {
    const near = neighbour(cell, taken, size);
    if (near) {
      join(near, cell);
    } else {
      found.push(cell);
      const key = keyOf(cell.x, cell.y, size);
      if (taken.has(key)) taken.get(key).push(cell);
      else taken.set(key, [cell]);
    }
  }
  return found.sort((a, b) => b.worst - a.worst || a.count - b.count);
}

function start(point, index) {
  return { x: point.x, y: point.y, worst: point.state, count: 1, members: [index], west: point.x, east: point.x,
    north: point.y, south: point.y };
}

function add(cell, point, index) {
  cell.count += 1;
  cell.x += (point.x - cell.x) / cell.count;
  cell.y += (point.y - cell.y) / cell.count;
  cell.worst = Math.min(cell.worst, point.state);
  cell.members.push(index);
  cell.west = Math.min(cell.west, point.x);
  cell.east = Math.max(cell.east, point.x);
  cell.north = Math.min(cell.north, point.y);
  cell.south = Math.max(cell.south, point.y);
}

function join(into, other) {
  const count = into.count + other.count;
  into.x += ((other.x - into.x) * other.count) / count;
  into.y += ((other.y - into.y) * other.count) / count;
  into.count = count;
  into.worst = Math.min(into.worst, other.worst);
  for (const index of other.members) into.members.push(index);
  into.west = Math.min(into.west, other.west);
  into.east = Math.max(into.east, other.east);
  into.north = Math.min(into.north, other.north);
  into.south = Math.max(into.south, other.south);
}

/** One number for a cell: a number is found far faster in a Map than a text is. */
function keyOf(x, y, size, dx = 0, dy = 0) {
  return (Math.floor(x / size) + dx) * COLUMN + Math.floor(y / size) + dy;
}

function neighbour(cell, taken, size) {
  const wide = 0.95 * size;
  const high = 0.5 * size;
  for (let dx = -1; dx <= 1; dx += 1) {
    for (let dy = -1; dy <= 1; dy += 1) {
      for (const other of taken.get(keyOf(cell.x, cell.y, size, dx, dy)) || NONE) {
        if (Math.abs(other.x - cell.x) < wide && Math.abs(other.y - cell.y) < high) return other;
      }
    }
  }
  return null;
}

/** The step of a grid of degrees whose lines stand at least `leastPx` apart at this zoom. */
export function gridStep(zoom, leastPx = 90) {
  const perDegree = (TILE_PX * 2 ** zoom) / 360;
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 45];
  return steps.find((step) => step * perDegree >= leastPx) || 90;
}

/** "53.35° N", "13.1° E": as many decimals as the step of the grid needs. */
export function degrees(value, positive, negative, step) {
  const decimals = step >= 1 ? 0 : step >= 0.1 ? 1 : 2;
  const side = Math.abs(value) < step / 2 ? "" : value > 0 ? ` ${positive}` : ` ${negative}`;
  return `${Math.abs(value).toFixed(decimals)}°${side}`;
}
