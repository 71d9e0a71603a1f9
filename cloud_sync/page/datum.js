// Datums at display only. Positions are WGS-84 everywhere else: stored, signed, sent, logged. A licensed Chinese
// tile source is drawn in GCJ-02 or, Baidu's, in BD-09; markers, tracks and clicks are converted to it and back.
//
// The formulas are the published ones (Krasovsky 1940 ellipsoid; as in the open "eviltransform" package, whose
// vectors the tests use). GCJ-02 is applied within the usual rectangle around China; outside, nothing is changed.

const AXIS_M = 6378245.0;
const ECCENTRICITY_2 = 0.00669342162296594323;
const BAIDU = (Math.PI * 3000) / 180;
const ROUNDS = 8;

/** Whether a WGS-84 position lies outside the rectangle in which GCJ-02 is applied. */
export function outside(lat, lon) {
  return lon < 72.004 || lon > 137.8347 || lat < 0.8293 || lat > 55.8271;
}

/** WGS-84 to GCJ-02, degrees: [lat, lon]. Unchanged outside. */
export function wgsToGcj(lat, lon) {
  if (outside(lat, lon)) return [lat, lon];
  const [north, east] = shift(lat - 35, lon - 105);
  const radians = (lat / 180) * Math.PI;
  const sine = Math.sin(radians);
  const magic = 1 - ECCENTRICITY_2 * sine * sine;
  const root = Math.sqrt(magic);
  const perLat = ((AXIS_M * (1 - ECCENTRICITY_2)) / (magic * root)) * (Math.PI / 180);
  const perLon = (AXIS_M / root) * Math.cos(radians) * (Math.PI / 180);
  return [lat + north / perLat, lon + east / perLon];
}

function shift(y, x) {
  const { sin, sqrt, abs, PI } = Math;
  const common = ((20 * sin(6 * x * PI) + 20 * sin(2 * x * PI)) * 2) / 3;
  let north = -100 + 2 * x + 3 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * sqrt(abs(x)) + common;
  north += ((20 * sin(y * PI) + 40 * sin((y / 3) * PI)) * 2) / 3;
  north += ((160 * sin((y / 12) * PI) + 320 * sin((y / 30) * PI)) * 2) / 3;
  let east = 300 + x + 2 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * sqrt(abs(x)) + common;
  east += ((20 * sin(x * PI) + 40 * sin((x / 3) * PI)) * 2) / 3;
  east += ((150 * sin((x / 12) * PI) + 300 * sin((x / 30) * PI)) * 2) / 3;
  return [north, east];
}

/** GCJ-02 to BD-09, degrees. */
export function gcjToBd(lat, lon) {
  const radius = Math.hypot(lon, lat) + 0.00002 * Math.sin(lat * BAIDU);
  const angle = Math.atan2(lat, lon) + 0.000003 * Math.cos(lon * BAIDU);
  return [radius * Math.sin(angle) + 0.006, radius * Math.cos(angle) + 0.0065];
}

/** WGS-84 to BD-09, degrees. Unchanged outside. */
export function wgsToBd(lat, lon) {
  if (outside(lat, lon)) return [lat, lon];
  return gcjToBd(...wgsToGcj(lat, lon));
}

/** A WGS-84 position as the datum of a tile source shows it: "wgs84", "gcj02" or "bd09". */
export function toDisplay(datum, lat, lon) {
  if (datum === "gcj02") return wgsToGcj(lat, lon);
  if (datum === "bd09") return wgsToBd(lat, lon);
  return [lat, lon];
}

/** The way back, by fixed-point iteration: neither datum has an inverse in closed form. Better than a millimetre. */
export function fromDisplay(datum, lat, lon) {
  let [guessLat, guessLon] = [lat, lon];
  for (let round = 0; round < ROUNDS; round += 1) {
    const [thereLat, thereLon] = toDisplay(datum, guessLat, guessLon);
    guessLat += lat - thereLat;
    guessLon += lon - thereLon;
  }
  return [guessLat, guessLon];
}
