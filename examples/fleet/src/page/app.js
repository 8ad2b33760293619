// The page: asks for positions every second, for the selected vehicle every two, and shows what it is told and how old that is.

import {AreaMap, chart, element, glyph, title} from '/draw.js';

const PATIENCE = 8000;
const SWITCHES = {
  none: {label: 'none', fault: {}},
  slow: {label: 'slow', fault: {delay_ms: 1500}, title: 'Waits 1.5 s before each answer'},
  errors: {label: 'errors', fault: {error_percent: 40}, title: 'Answers 40 of 100 requests with 500'},
  hangs: {label: 'hangs', fault: {hang: true}, title: 'Answers nothing'},
};

const $ = selector => document.querySelector(selector);
const wait = time => new Promise(done => setTimeout(done, time));

let map;
let selected = null;
let wanted = '';
let reports = [];
let heard = null; // when positions came, and how old they were then
let trouble = null;
const answers = {driver: [], photo: []};

// Asks the API. An error is a sentence.
async function ask(path, options = {}) {
  const headers = {...options.headers};
  if (wanted) headers['x-fleet-version'] = wanted;
  let response;
  try {
    response = await fetch(`/api${path}`, {...options, headers, signal: AbortSignal.timeout(PATIENCE)});
  } catch (error) {
    throw new Error(error.name === 'TimeoutError' ? `no answer within ${PATIENCE / 1000} s` : 'the gateway cannot be reached');
  }
  const by = (response.headers.get('x-served-by') ?? '').split(',')[0].trim();
  const text = await response.text();
  if (response.ok) return {text, by, json: () => JSON.parse(text)};
  let said = text.trim();
  try { said = JSON.parse(text).error ?? said; } catch { /* a proxy's words, not a service's */ }
  const who = by || 'the gateway';
  throw new Error(response.status === 429 ? 'the rate limit is reached (429); it frees up by the second' : `${who} answered ${response.status}: ${said}`);
}

// Does it again and again, and never twice at once; not while nobody looks.
async function every(time, work) {
  for (;;) {
    if (!document.hidden) await work();
    await wait(time);
  }
}

async function refreshVehicles() {
  try {
    const answer = (await ask('/vehicles')).json();
    reports = answer.vehicles;
    heard = answer.age_ms === null ? null : {at: performance.now(), age: answer.age_ms};
    trouble = answer.problems.map(problem => problem.message).join('; ') || null;
  } catch (error) {
    trouble = error.message;
  }
  if (!selected && reports.length) select((reports.find(report => report.speed_kmh > 0) ?? reports[0]).vehicle, true);
  map.show(reports, selected);
  showList();
  showFreshness();
}

function showFreshness() {
  const age = heard ? (performance.now() - heard.at + heard.age) / 1000 : null;
  const state = age === null ? (trouble ? 'down' : 'waiting') : age > 30 ? 'down' : age > 4 ? 'stale' : 'live';
  const words = {
    waiting: 'waiting for positions',
    live: 'live',
    stale: `positions are ${Math.round(age)} s old`,
    down: age === null ? 'no positions' : `positions are ${Math.round(age)} s old`,
  }[state];
  $('#freshness').dataset.state = state;
  if ($('#freshness .words').textContent !== words) $('#freshness .words').textContent = words;
  $('#map').classList.toggle('stale', state === 'stale' || state === 'down');
  $('#trouble').hidden = !trouble;
  $('#trouble').textContent = trouble ?? '';
}

function showList() {
  const list = $('#vehicles ul');
  const driving = reports.filter(report => report.speed_kmh > 0).length;
  const known = reports.every(report => report.speed_kmh !== null);
  $('#moving').textContent = !reports.length ? '' : known ? `${driving} of ${reports.length} driving` : `${reports.length}, speeds unknown`;
  for (const report of reports) {
    let row = list.querySelector(`[data-vehicle="${CSS.escape(report.vehicle)}"]`);
    if (!row) {
      row = element('button', {type: 'button', 'data-vehicle': report.vehicle});
      row.addEventListener('click', () => select(report.vehicle));
      list.append(element('li', {}, row));
    }
    const moves = report.speed_kmh !== 0;
    const speed = report.speed_kmh === null ? '–' : moves ? `${report.speed_kmh} km/h` : 'at rest';
    row.className = moves ? 'driving' : '';
    row.setAttribute('aria-current', report.vehicle === selected);
    row.replaceChildren(
      glyph(moves),
      element('span', {}, title(report.vehicle), element('span', {class: 'plate'}, report.plate ?? '')),
      element('span', {class: 'speed'}, speed),
    );
  }
}

function select(vehicle, first = false) {
  if (vehicle === selected) return;
  selected = vehicle;
  const parts = [vehicle, ...($('#services').hidden ? [] : ['services'])];
  history[first ? 'replaceState' : 'pushState'](null, '', `#${parts.join('/')}`);
  map.showTrail(null);
  $('#detail').replaceChildren(
    element('h2', {}, title(vehicle)),
    element('p', {id: 'about', class: 'muted'}, '\u00a0'),
    element('div', {id: 'photo'}),
    element('div', {id: 'photo-by'}),
    element('section', {id: 'driver'}),
    element('section', {id: 'telemetry'}),
  );
  map.show(reports, selected);
  showList();
  refreshDetail();
  refreshPhoto();
}

async function refreshDetail() {
  if (!selected) return;
  const vehicle = selected;
  let answer;
  try {
    answer = (await ask(`/vehicles/${vehicle}`)).json();
  } catch (error) {
    answer = {problems: ['staff-service', 'vehicle-telemetry'].map(service => ({service, message: error.message})), answered: []};
  }
  if (vehicle !== selected) return;
  const problem = service => answer.problems.find(problem => problem.service === service)?.message;
  const by = service => answer.answered.find(answered => answered.service === service);
  if (answer.kind) {
    const road = reports.find(report => report.vehicle === vehicle)?.road;
    $('#about').textContent = `${title(answer.kind)} ${answer.plate}${road ? `, ${road}` : ''}`;
  }
  if (answer.trail) map.showTrail(answer.trail);
  showDriver(answer.driver, by('staff-service'), problem('staff-service'));
  showTelemetry(answer.telemetry, by('vehicle-telemetry'), problem('vehicle-telemetry'));
}

function head(name, by) {
  const tag = by ? element('span', {class: 'by'}, by.service, ' ', element('b', {}, by.version ?? '?'), ` in ${by.ms} ms`) : null;
  return element('div', {class: 'head'}, element('h3', {}, name), tag);
}

function showDriver(driver, by, problem) {
  remember(answers.driver, by?.version, problem);
  const content = [head('Driver', by)];
  if (problem) content.push(element('p', {class: 'problem'}, problem));
  else if (driver?.shift) content.push(...fullDriver(driver));
  else if (driver) content.push(element('p', {}, driver.name), element('p', {class: 'muted'}, `Licence ${driver.licence}`));
  content.push(strip(answers.driver));
  $('#driver').replaceChildren(...content);
}

function fullDriver(driver) {
  const portrait = element('span', {class: 'portrait', style: `background: hsl(${driver.hue} 38% 42%)`, 'aria-hidden': 'true'}, driver.initials);
  const about = `Licence ${driver.licence} · since ${driver.since} · ${driver.languages.join(', ')}`;
  const left = driver.shift.minutes_left;
  const rest = left === null ? 'called in outside the shift' : `${Math.floor(left / 60)} h ${left % 60} min left`;
  const done = element('i', {style: `width: ${driver.shift.done_percent}%`});
  return [
    element('div', {class: 'person'}, portrait, element('div', {}, element('p', {}, `${driver.name}, ${driver.phone}`), element('p', {class: 'muted'}, about))),
    element('div', {class: 'shift'}, element('div', {class: 'bar'}, done), element('p', {class: 'muted'}, `Shift ${driver.shift.from} to ${driver.shift.to} UTC, ${rest}`)),
  ];
}

function showTelemetry(telemetry, by, problem) {
  const content = [head('Telemetry', by)];
  if (problem) content.push(element('p', {class: 'problem'}, problem));
  else if (telemetry) {
    const figure = (name, value, unit) => element('div', {}, element('dt', {}, name), element('dd', {}, String(value), element('small', {}, ` ${unit}`)));
    content.push(
      element('dl', {class: 'figures'}, figure('Speed', telemetry.speed_kmh, 'km/h'), figure('Driven', (telemetry.driven_m / 1000).toFixed(1), 'km'), figure('Battery', telemetry.battery_percent, '%')),
      chart(telemetry.history),
      element('p', {class: 'by'}, 'km/h in the last three minutes'),
    );
  }
  $('#telemetry').replaceChildren(...content);
}

let shown = {};

async function refreshPhoto() {
  if (!selected) return;
  const vehicle = selected;
  let [by, problem, text] = [null, null, null];
  try {
    ({text, by} = await ask(`/photos/${vehicle}`));
  } catch (error) {
    problem = error.message;
  }
  if (vehicle !== selected) return;
  const [service, version] = by?.split(' ') ?? [];
  remember(answers.photo, version, problem);
  const frame = $('#photo');
  if (text && (shown.text !== text || !frame.firstChild)) {
    const url = URL.createObjectURL(new Blob([text], {type: 'image/svg+xml'}));
    const image = element('img', {src: url, alt: `Picture of ${title(vehicle)}`});
    image.addEventListener('load', () => URL.revokeObjectURL(url), {once: true});
    frame.replaceChildren(image);
    shown = {text};
  }
  const tag = problem ? element('p', {class: 'problem'}, problem) : element('span', {class: 'by'}, `${service} `, element('b', {}, version ?? ''));
  $('#photo-by').replaceChildren(tag, strip(answers.photo));
}

// The last answers and who gave them: how a canary shows.
function remember(last, version, problem) {
  last.push(problem ? 'bad' : version);
  if (last.length > 20) last.shift();
}

function strip(last) {
  const counted = name => last.filter(answer => answer === name).length;
  const words = ['v1', 'v2', 'bad'].filter(counted).map(name => `${counted(name)} ${name === 'bad' ? 'failed' : name}`).join(', ');
  return element('div', {class: 'answers', title: `The last ${last.length} answers`}, ...last.map(answer => element('i', {class: answer})), element('span', {}, words));
}

function tell(text, command) {
  $('#said output').textContent = text;
  $('#said code').hidden = !command;
  $('#said code').textContent = command ?? '';
}

function stateOf({state, error}) {
  if (error) return ['bad', '✕', error];
  const {delay_ms, error_percent, hang} = state.fault;
  if (hang) return ['bad', '■', 'hangs on purpose'];
  const wrong = [delay_ms && `slow by ${delay_ms} ms`, error_percent && `fails ${error_percent} %`].filter(Boolean);
  return wrong.length ? ['warn', '▲', `${wrong.join(', ')} on purpose`] : ['good', '●', 'answers'];
}

function pressed(fault) {
  const same = other => (other.delay_ms ?? 0) === fault.delay_ms && (other.error_percent ?? 0) === fault.error_percent && (other.hang ?? false) === fault.hang;
  return Object.keys(SWITCHES).find(name => same(SWITCHES[name].fault));
}

async function refreshServices() {
  if ($('#services').hidden) return;
  let services;
  try {
    services = (await ask('/services')).json();
  } catch (error) {
    tell(error.message);
    return;
  }
  const body = $('#services tbody');
  for (const service of services) {
    const key = `${service.service} ${service.version}`;
    let row = body.querySelector(`[data-key="${key}"]`);
    if (!row) {
      row = element('tr', {'data-key': key}, ...['', '', '', 'number', 'number', 'number', ''].map(name => element('td', name ? {class: name} : {})));
      row.children[0].textContent = service.service;
      row.children[1].textContent = service.version;
      const segments = Object.entries(SWITCHES).map(([name, {label, fault, title}]) => {
        const button = element('button', {type: 'button', 'data-switch': name, title, 'aria-label': `${key}: ${label}`}, label);
        button.addEventListener('click', () => flip(service, fault));
        return button;
      });
      row.children[6].append(element('div', {class: 'segments', role: 'group'}, ...segments));
      body.append(row);
    }
    const [tone, sign, words] = stateOf(service);
    row.children[2].replaceChildren(element('span', {class: tone, 'aria-hidden': 'true'}, sign), ` ${words}`);
    row.children[3].textContent = service.ms === undefined ? '–' : `${service.ms} ms`;
    row.children[4].textContent = service.state?.requests ?? '–';
    row.children[5].textContent = service.state?.errors ?? '–';
    const on = service.state && pressed(service.state.fault);
    for (const button of row.querySelectorAll('button')) button.setAttribute('aria-pressed', button.dataset.switch === on);
  }
  return services;
}

function flipPath({service, version}) {
  return `/services/${service}/${version}/fault`;
}

async function flip(service, fault) {
  const body = JSON.stringify(fault);
  try {
    await ask(flipPath(service), {method: 'POST', body});
    tell('The same as a command:', `curl -d '${body}' ${location.origin}/api${flipPath(service)}`);
  } catch (error) {
    tell(error.message);
  }
  await refreshServices();
}

async function heal() {
  const services = (await refreshServices()) ?? [];
  const struck = services.filter(service => service.error || pressed(service.state.fault) !== 'none');
  const results = await Promise.allSettled(struck.map(service => ask(flipPath(service), {method: 'POST', body: '{}'})));
  const failed = results.find(result => result.status === 'rejected');
  tell(failed ? failed.reason.message : 'No failures are switched on.');
  await refreshServices();
}

async function burst() {
  $('#burst').disabled = true;
  const counts = {};
  const sent = Array.from({length: 100}, () => fetch('/api/vehicles').then(response => response.status, () => 'unanswered'));
  for (const status of await Promise.all(sent)) counts[status] = (counts[status] ?? 0) + 1;
  const words = {200: 'answered', 429: 'turned away by the rate limit (429)'};
  tell(`100 sent: ${Object.entries(counts).map(([status, count]) => `${count} ${words[status] ?? status}`).join(', ')}.`);
  $('#burst').disabled = false;
}

function openServices(open) {
  $('#services').hidden = !open;
  $('#open-services').setAttribute('aria-expanded', open);
  history.replaceState(null, '', `#${[selected, open ? 'services' : null].filter(Boolean).join('/')}`);
  if (open) refreshServices();
}

function followUrl() {
  const parts = location.hash.slice(1).split('/').filter(Boolean);
  const open = parts.includes('services');
  const vehicle = parts.find(part => part !== 'services');
  if (vehicle && /^[a-z]+$/.test(vehicle)) select(vehicle, true);
  if (open === $('#services').hidden) openServices(open);
}

async function start() {
  const area = await (await fetch('/area.json')).json();
  map = new AreaMap($('#map > svg'), area, vehicle => select(vehicle));
  followUrl();
  addEventListener('hashchange', followUrl);
  $('#open-services').addEventListener('click', () => openServices($('#services').hidden));
  $('#close-services').addEventListener('click', () => openServices(false));
  $('#burst').addEventListener('click', burst);
  $('#heal').addEventListener('click', heal);
  for (const input of document.querySelectorAll('#tester input')) {
    input.addEventListener('change', () => {
      wanted = input.value;
      answers.driver.length = answers.photo.length = 0;
      refreshDetail();
      refreshPhoto();
    });
  }
  every(1000, refreshVehicles);
  every(2000, refreshDetail);
  every(4000, refreshPhoto);
  every(2000, refreshServices);
  setInterval(showFreshness, 1000);
}

start();
