// What is drawn: the map, the vehicles on it, and the chart of a vehicle's speed.

const SVG = 'http://www.w3.org/2000/svg';

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

function shape(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// A Catmull-Rom spline through the points, as the simulator drives it (`curve` in area.rs).
function splinePath(points) {
  const at = place => points[Math.max(0, Math.min(points.length - 1, place))];
  let path = `M ${points[0].join(' ')}`;
  for (let place = 1; place < points.length; place++) {
    const [before, from, to, after] = [at(place - 2), at(place - 1), at(place), at(place + 1)];
    const first = [0, 1].map(axis => from[axis] + (to[axis] - before[axis]) / 6);
    const second = [0, 1].map(axis => to[axis] - (after[axis] - from[axis]) / 6);
    path += ` C ${[...first, ...second, ...to].join(' ')}`;
  }
  return path;
}

export const ARROW = 'M0 -8.5 L6 6.5 L0 3.2 L-6 6.5 Z';

export class AreaMap {
  constructor(svg, area, select) {
    this.svg = svg;
    this.area = area;
    this.select = select;
    this.vehicles = new Map();
    for (const path of area.parks) svg.append(shape('path', {class: 'park', d: path}));
    for (const path of area.water) svg.append(shape('path', {class: 'water', d: path}));
    const lanes = area.roads.map(road => ({...road, d: splinePath(road.along.map(name => area.crossings[name]))}));
    // The wide ones last; all edges beneath all surfaces, so that crossings are open.
    const order = ['street', 'main', 'highway'];
    lanes.sort((a, b) => order.indexOf(a.class) - order.indexOf(b.class));
    for (const layer of ['edge', 'road']) {
      for (const lane of lanes) svg.append(shape('path', {class: `${layer} ${lane.class}`, d: lane.d}));
    }
    for (const {name, at, weight} of area.places) {
      svg.append(shape('text', {class: weight ? 'place weight' : 'place', x: at[0], y: at[1]}, name));
    }
    for (const {name, at, turn} of area.waterNames) {
      svg.append(shape('text', {class: 'water-name', transform: `translate(${at}) rotate(${turn ?? 0})`}, name));
    }
    this.trail = shape('path', {class: 'trail', d: ''});
    svg.append(this.trail);
    new ResizeObserver(() => this.fit()).observe(svg);
    this.fit();
  }

  // Shows nearly all of the area: what a window of another shape would leave empty is filled, but for a little on each side.
  fit() {
    const {width, height} = this.area;
    const box = this.svg.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const [all, filled] = [Math.min(box.width / width, box.height / height), Math.max(box.width / width, box.height / height)];
    const scale = Math.min(filled, all * 1.02);
    const [w, h] = [box.width / scale, box.height / scale];
    this.svg.setAttribute('viewBox', `${(width - w) / 2} ${(height - h) / 2} ${w} ${h}`);
    // Words and vehicles are as large as they are, however small the map is.
    this.svg.style.setProperty('--unit', 1 / scale);
  }

  show(reports, selected) {
    for (const report of reports) {
      let drawn = this.vehicles.get(report.vehicle);
      if (!drawn) this.vehicles.set(report.vehicle, drawn = this.add(report.vehicle));
      drawn.group.style.transform = `translate(${report.x}px, ${report.y}px)`;
      // The short way round, not through all degrees when north is passed.
      const turn = report.heading + 90;
      drawn.turn += ((turn - drawn.turn) % 360 + 540) % 360 - 180;
      drawn.arrow.style.transform = `rotate(${drawn.turn}deg)`;
      drawn.group.classList.toggle('resting', report.speed_kmh === 0);
      drawn.group.classList.toggle('selected', report.vehicle === selected);
    }
    const chosen = this.vehicles.get(selected);
    if (chosen && chosen.group !== this.svg.lastChild) this.svg.append(chosen.group);
  }

  showTrail(points) {
    this.trail.setAttribute('d', points?.length > 1 ? `M ${points.map(point => point.join(' ')).join(' L ')}` : '');
  }

  add(name) {
    const [group, sized, arrow] = ['vehicle', 'sized', 'turn'].map(name => shape('g', {class: name}));
    arrow.append(shape('path', {d: ARROW}));
    sized.append(shape('circle', {class: 'ring', r: 16}), arrow, shape('circle', {class: 'still', r: 5}));
    sized.append(shape('text', {x: 12, y: 4}, title(name)));
    group.append(sized);
    group.addEventListener('click', () => this.select(name));
    this.svg.append(group);
    return {group, arrow, turn: 0};
  }
}

export function title(name) {
  return name[0].toUpperCase() + name.slice(1);
}

// The speed of the last three minutes. `history`: pairs of second and km/h.
export function chart(history) {
  const [left, right, top, bottom, width, height] = [26, 4, 8, 18, 272, 104];
  const now = history.at(-1)?.[0] ?? 0;
  const most = Math.max(60, Math.ceil(Math.max(0, ...history.map(([, speed]) => speed)) / 30) * 30);
  const x = second => width - right - (now - second) / 180 * (width - left - right);
  const y = speed => height - bottom - speed / most * (height - top - bottom);
  const svg = shape('svg', {id: 'chart', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'Speed of the last three minutes in km/h'});
  for (let speed = 0; speed <= most; speed += most > 90 ? 60 : 30) {
    svg.append(shape('line', {class: 'grid', x1: left, x2: width - right, y1: y(speed), y2: y(speed)}));
    svg.append(shape('text', {x: left - 6, y: y(speed) + 4, 'text-anchor': 'end'}, speed));
  }
  for (const [minutes, anchor] of [[3, 'start'], [2, 'middle'], [1, 'middle'], [0, 'end']]) {
    const label = minutes === 0 ? 'now' : `−${minutes} min`;
    svg.append(shape('text', {x: x(now - minutes * 60), y: height - 4, 'text-anchor': anchor}, label));
  }
  // A gap where nothing was reported.
  const runs = [];
  for (const [place, [second, speed]] of history.entries()) {
    if (now - second > 180) continue;
    if (!runs.length || second - history[place - 1][0] > 4) runs.push([]);
    runs.at(-1).push(`${x(second).toFixed(1)} ${y(speed).toFixed(1)}`);
  }
  for (const run of runs) {
    const [start, end] = [run[0].split(' ')[0], run.at(-1).split(' ')[0]];
    svg.append(shape('path', {class: 'area', d: `M ${start} ${y(0)} L ${run.join(' L ')} L ${end} ${y(0)} Z`}));
    svg.append(shape('path', {class: 'speed', d: `M ${run.join(' L ')}`}));
  }
  return svg;
}

export function glyph(driving) {
  const svg = shape('svg', {class: 'glyph', viewBox: '-11 -11 22 22', 'aria-hidden': 'true'});
  svg.append(driving ? shape('path', {d: ARROW, fill: 'var(--car)'}) : shape('circle', {r: 5, fill: 'var(--car-still)'}));
  return svg;
}
