// The dashboard. It gets a status every second, and when something happens, by /api/v1/stream and shows it; nothing here is computed that the node does not say.

import * as format from './format.js';
import { draw, redraw, spark } from './charts.js';

const $ = (id) => document.getElementById(id);
const STALE_MS = 2000;
const HISTORY_MS = 5000;
const ICONS = { info: '✓', warning: '▲', critical: '✕', unknown: '?' };

let latest = null;
let heardAt = null;
let range = '5m';
let history = null;
let lastEvent = -1;
let source = null;

// An element with a class and children. Text is always text: nothing that comes from the node is ever parsed as HTML.
function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function rows(list, pairs) {
  const wanted = pairs.filter(Boolean);
  while (list.children.length > wanted.length) list.lastElementChild.remove();
  wanted.forEach(([name, value, title], at) => {
    let row = list.children[at];
    if (!row) {
      row = el('div', '', el('dt'), el('dd'));
      list.append(row);
    }
    set(row.children[0], name);
    set(row.children[1], value);
    row.title = title ?? '';
  });
}

// ---- Header and verdict

function showHead(status) {
  document.title = `${status.verdict.state} · ${status.name}`;
  set($('name'), status.name);
  const facts = [status.role, `epoch ${status.epoch}`, `up ${format.duration(status.uptime_s)}`, `${format.count(status.clients.keys)} keys`];
  const list = $('facts');
  while (list.children.length < facts.length) list.append(el('li'));
  facts.forEach((fact, at) => set(list.children[at], fact));
  set($('version'), `Farkeep ${status.version}`);
}

function showVerdict(status) {
  const { state, level, text, advice } = status.verdict;
  $('verdict').dataset.level = level;
  set($('verdict-icon'), ICONS[level]);
  set($('verdict-state'), state.replaceAll('-', ' '));
  set($('verdict-text'), text);
  set($('verdict-advice'), advice ? `What to do: ${advice}.` : '');
  const leads = status.role === 'leader';
  const risk = status.at_risk;
  if (!leads) {
    set($('risk'), '–');
    set($('risk-note'), 'the leader knows');
  } else if (risk.bytes === null) {
    set($('risk'), 'everything');
    set($('risk-note'), 'no follower holds anything');
  } else {
    set($('risk'), risk.bytes === 0 ? '0 B' : `${format.bytes(risk.bytes)} · ${format.time(risk.us)}`);
    set($('risk-note'), risk.bytes === 0 ? 'all that was acknowledged is on a follower' : 'acknowledged, on no follower');
  }
  const commit = status.commit;
  const measured = commit && commit.count > 0;
  set($('commit'), measured ? format.time(commit.p99_us) : '–');
  set($('commit-note'), measured ? `p50 ${format.time(commit.p50_us)}, max ${format.time(commit.max_us)}` : leads ? 'no writes lately' : 'the leader knows');
  const failover = status.last_failover;
  set($('failover'), failover ? (failover.took_ms === null ? format.clock(failover.at_ms) : format.time(failover.took_ms * 1000)) : 'none');
  set($('failover-note'), failover ? `${format.day(failover.at_ms)}: ${failover.text}` : 'since this node started');
}

// ---- Topology

function fabricBadge(fabric, mode, reason) {
  const best = fabric === 'rdma';
  const badge = el('span', `badge ${best ? 'best' : ''}`, `${fabric ? fabric.toUpperCase() : 'no link'}${mode ? ` · ${mode}` : ''}`);
  if (reason) badge.title = `why no better fabric: ${reason}`;
  return badge;
}

function nodeBox(name, role, note, level, link) {
  const title = link ? el('a', 'node-name', name) : el('span', 'node-name', name);
  if (link) title.href = link;
  const box = el('div', 'node', el('span', 'role', role), title, el('span', 'note', note));
  box.dataset.level = level;
  return box;
}

function showTopology(status) {
  const shape = JSON.stringify([
    status.name, status.role, status.epoch, status.verdict.level, status.link && [status.link.leader, status.link.up, status.link.fabric, status.link.mode, status.link.page],
    status.followers.map((f) => [f.name, f.state, f.fabric, f.mode, f.fabric_reason, f.page]), status.lost.map((l) => [l.name, l.page]),
  ]);
  if (showTopology.shape === shape) return;
  showTopology.shape = shape;
  const root = $('topology');
  root.replaceChildren();
  const self = nodeBox(status.name, `${status.role} · this node`, `epoch ${status.epoch}`, status.verdict.level);
  self.classList.add('self');
  if (status.link) {
    const link = status.link;
    root.append(
      el('div', 'tier', nodeBox(link.leader, 'leader', link.up ? 'link up' : 'link down', link.up ? 'info' : 'warning', link.page)),
      el('div', 'wire', fabricBadge(link.fabric, link.mode, link.fabric_reason)),
      el('div', 'tier', self),
    );
    return;
  }
  const branches = el('div', 'branches');
  for (const f of status.followers) {
    const level = f.state === 'streaming' ? 'info' : 'warning';
    branches.append(el('div', 'branch', el('div', 'wire', fabricBadge(f.fabric, f.mode, f.fabric_reason)), nodeBox(f.name, 'follower', f.state, level, f.page)));
  }
  for (const l of status.lost) {
    branches.append(el('div', 'branch', el('div', 'wire gone', el('span', 'badge', '✕ lost')), nodeBox(l.name, 'follower', `gone since ${format.clock(l.since_ms)}`, 'critical', l.page)));
  }
  if (!branches.children.length) branches.append(el('p', 'note', 'No followers.'));
  root.append(el('div', 'tier', self), branches);
}

// ---- Followers

const cards = new Map();

function stageCell(name) {
  const cell = el('div', 'stage', el('span', 'stage-name', name), el('strong', 'lag'), el('span', 'behind note'), el('span', 'times note'));
  return { cell, lag: cell.children[1], behind: cell.children[2], times: cell.children[3] };
}

function newCard() {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 120 28');
  svg.setAttribute('role', 'img');
  svg.classList.add('spark');
  svg.append(document.createElementNS('http://www.w3.org/2000/svg', 'path'));
  const stages = ['posted', 'durable', 'applied'].map(stageCell);
  const card = {
    name: el('h3'), state: el('span', 'chip'), badge: el('span', 'badge'), svg, stages, trend: el('p', 'trend'), walk: el('div', 'walk'), why: el('p', 'note why'),
  };
  card.root = el('article', 'card panel', el('div', 'card-head', card.name, card.state, card.badge, svg), el('div', 'stages', ...stages.map((s) => s.cell)), card.trend, card.walk, card.why);
  return card;
}

function stalled(follower) {
  return follower.stages.some((stage) => stage.lag_us >= 1_000_000);
}

function trend(follower) {
  const durable = follower.stages[1];
  if (durable.lag_bytes === 0) return '→ up to date';
  if (follower.catch_up_s !== null) return `↘ catching up at ${format.bytes(follower.catch_up_bytes_per_s)}/s, done in ${format.duration(follower.catch_up_s)}`;
  if (follower.catch_up_bytes_per_s < 0) return `↗ falling behind by ${format.bytes(-follower.catch_up_bytes_per_s)}/s`;
  return '→ standing still';
}

function showFollowers(status) {
  const holder = $('follower-cards');
  const names = new Set();
  for (const follower of status.followers) {
    names.add(follower.node_id);
    let card = cards.get(follower.node_id);
    if (!card) {
      card = newCard();
      cards.set(follower.node_id, card);
      holder.append(card.root);
    }
    const slow = stalled(follower);
    card.root.dataset.level = !follower.online || slow ? 'warning' : 'info';
    set(card.name, follower.name);
    set(card.state, slow ? '▲ behind' : follower.state === 'streaming' ? '✓ streaming' : `▲ ${follower.state}`);
    card.state.dataset.level = slow || follower.state !== 'streaming' ? 'warning' : 'info';
    set(card.badge, `${follower.fabric.toUpperCase()}${follower.mode ? ` · ${follower.mode}` : ''}`);
    card.badge.classList.toggle('best', follower.fabric === 'rdma');
    follower.stages.forEach((stage, at) => {
      const cell = card.stages[at];
      set(cell.lag, `${stage.at_least ? '≥ ' : ''}${format.time(stage.lag_us)}`);
      set(cell.behind, stage.lag_bytes === 0 ? 'not behind' : `${format.bytes(stage.lag_bytes)} behind`);
      set(cell.times, stage.count === 0 ? 'no writes lately' : `p50 ${format.time(stage.p50_us)} · p99 ${format.time(stage.p99_us)} · max ${format.time(stage.max_us)}`);
      cell.cell.dataset.level = stage.lag_us >= 1_000_000 ? 'critical' : 'info';
    });
    set(card.trend, `${trend(follower)} · last heard ${format.time(follower.silent_ms * 1000)} ago`);
    showWalk(card.walk, follower.walk);
    set(card.why, follower.fabric_reason ? `Why not a better fabric: ${follower.fabric_reason}` : '');
  }
  for (const [id, card] of cards) {
    if (!names.has(id)) {
      card.root.remove();
      cards.delete(id);
    }
  }
  showLost(status);
  const link = status.link;
  set($('followers-title').firstChild, link ? 'Link to the leader ' : 'Followers ');
  set($('followers-count'), link ? '' : `${status.followers_in_reach} in reach, ${status.sync_followers} needed for a write`);
  showLink(link, status);
}

function showWalk(holder, walk) {
  holder.hidden = !walk;
  if (!walk) return;
  if (!holder.children.length) {
    const bar = document.createElement('progress');
    holder.append(bar, el('p', 'note'));
  }
  const [bar, text] = holder.children;
  bar.max = Math.max(1, walk.image_bytes);
  bar.value = walk.settled_bytes;
  bar.setAttribute('aria-label', walk.purpose);
  const left = walk.left_s === null ? '' : `, ${format.duration(walk.left_s)} left`;
  set(text, `${walk.purpose === 'sync' ? '▲ delta sync' : 'scrub'}: ${format.bytes(walk.settled_bytes)} of ${format.bytes(walk.image_bytes)} at ${format.bytes(walk.bytes_per_s)}/s${left}; ${format.bytes(walk.sent_bytes)} sent, ${format.count(walk.differing)} chunks differed`);
}

function showLost(status) {
  let holder = $('lost');
  if (!status.lost.length) {
    holder?.remove();
    return;
  }
  if (!holder) {
    holder = el('ul', 'lost panel');
    holder.id = 'lost';
    $('follower-cards').after(holder);
  }
  while (holder.children.length > status.lost.length) holder.lastElementChild.remove();
  status.lost.forEach((lost, at) => {
    if (!holder.children[at]) holder.append(el('li'));
    const left = lost.needs_sync
      ? 'needs a sync: the log went over what it lacks'
      : lost.needs_sync_s === null ? 'can resume: nothing is written' : `can resume for another ${format.duration(lost.needs_sync_s)}`;
    set(holder.children[at], `✕ ${lost.name} is gone since ${format.clock(lost.since_ms)}, ${format.bytes(lost.behind_bytes)} behind; ${left}${lost.why ? ` (${lost.why})` : ''}`);
  });
}

function showLink(link, status) {
  let holder = $('link');
  if (!link) {
    holder?.remove();
    return;
  }
  if (!holder) {
    holder = el('dl', 'rows panel');
    holder.id = 'link';
    $('follower-cards').after(holder);
  }
  rows(holder, [
    ['Leader', link.leader],
    ['Link', link.up ? '✓ up' : link.syncing ? '▲ syncing' : `▲ down${link.down_s === null ? '' : ` for ${format.duration(link.down_s)}`}`],
    link.up ? null : ['Why', link.down_reason || 'not connected yet'],
    ['Last heard', link.silent_s === null ? '–' : `${format.duration(link.silent_s)} ago`],
    ['Fabric', `${link.fabric ? link.fabric.toUpperCase() : '–'}${link.mode ? ` · ${link.mode}` : ''}`],
    link.fabric_reason ? ['Why no better', link.fabric_reason] : null,
    ['Durable here', `LSN ${format.count(status.watermarks.durable_lsn)}`],
    ['Not in the image yet', format.bytes(link.unapplied_bytes)],
  ]);
}

// ---- Log, pool, sync

function showLog(status) {
  const { log, rates, clients, local_durable: local } = status;
  const used = log.len_bytes ? log.used_bytes / log.len_bytes : 0;
  $('ring-bar').firstElementChild.style.width = `${(used * 100).toFixed(2)}%`;
  $('ring-bar').dataset.level = used > 0.85 ? 'critical' : used > 0.6 ? 'warning' : 'info';
  const text = `${(used * 100).toFixed(1)} % of ${format.bytes(log.len_bytes)} in use`;
  set($('ring-text'), text);
  $('ring-bar').setAttribute('aria-label', `log ring: ${text}`);
  rows($('log'), [
    ['A lost follower can resume for', log.holds_s === null ? 'as long as nothing is written' : format.duration(log.holds_s), 'the ring goes over what it lacks after that'],
    ['Written to the log', `${format.bytes(rates.redo_bytes_per_s)}/s`],
    local && local.count > 0 ? ['Durable here after', `p50 ${format.time(local.p50_us)} · p99 ${format.time(local.p99_us)}`] : null,
    ['Commands', `${format.count(rates.commands_per_s)}/s`],
    ['Clients', `${format.count(clients.connected)}${clients.blocked ? `, ${clients.blocked} blocked` : ''}`],
    ['In / out', `${format.bytes(rates.input_bytes_per_s)}/s / ${format.bytes(rates.output_bytes_per_s)}/s`],
    ['Unconfirmed writes', format.count(clients.unconfirmed), 'writes whose fate could not be told'],
    ['appended_lsn', format.count(status.watermarks.appended_lsn)],
    ['committed_lsn', format.count(status.watermarks.committed_lsn)],
  ]);
}

function showPool(status) {
  const pool = status.pool;
  const volatile = pool.durability === 'volatile';
  rows($('pool'), [
    ['Durability', `${volatile ? '▲ ' : '✓ '}${pool.durability}`, pool.durability_reason],
    pool.durability_reason ? ['Because', pool.durability_reason] : null,
    ['Image', `${format.bytes(pool.image_used_bytes)} of ${format.bytes(pool.maxmemory_bytes ?? pool.image_bytes)} used`],
    ['A restart replays', format.bytes(pool.checkpoint_distance_bytes)],
    ['Dirty pages', `${format.count(pool.dirty_pages)} (${format.bytes(pool.dirty_bytes)} of DRAM)`],
    ['Directory', pool.path],
    ['Log', status.log.path],
    pool.failure ? ['Failure', `✕ ${pool.failure}`] : null,
  ]);
}

function showSync(status) {
  const { walks, link } = status;
  $('sync-section').hidden = false;
  rows($('sync'), [
    link?.sync ? ['This node is filled', `▲ ${format.bytes(link.sync.settled_bytes)} of ${format.bytes(link.sync.image_bytes)}, ${format.bytes(link.sync.received_bytes)} received`] : null,
    ['Syncs', walks.syncs === 0 ? 'none' : `${format.count(walks.syncs)}, ${format.bytes(walks.sync_bytes)} sent`],
    ['Scrubs', walks.scrubs === 0 ? 'none' : format.count(walks.scrubs)],
    ['Last scrub', walks.last_scrub_ms === null ? '–' : format.day(walks.last_scrub_ms)],
    ['Found and repaired', `${walks.scrub_mismatches > 0 ? '✕ ' : walks.scrubs > 0 ? '✓ ' : ''}${walks.scrubs === 0 ? '–' : `${format.count(walks.scrub_mismatches)} chunks`}`],
  ]);
}

// ---- Events

async function loadEvents(upTo) {
  if (upTo === lastEvent) return;
  lastEvent = upTo;
  const events = await getJson('/api/v1/events');
  if (!events) {
    lastEvent = -1;
    return;
  }
  $('events').replaceChildren(
    ...events.slice(-100).reverse().map((event) => {
      const item = el('li', '', el('time', '', format.clock(event.at_ms)), el('span', 'icon', ICONS[event.level]), el('span', 'kind', event.kind), el('span', 'text', event.text));
      item.children[0].dateTime = new Date(event.at_ms).toISOString();
      item.children[0].title = format.day(event.at_ms);
      item.dataset.level = event.level;
      if (event.took_ms !== undefined) item.append(el('span', 'took', format.time(event.took_ms * 1000)));
      return item;
    }),
  );
}

// ---- Actions: each is confirmed by typing its name, after a look at what is at stake

let session = { actions: false };
let asking = null;

function newAction(text, label, start) {
  const button = el('button', '', label);
  button.type = 'button';
  button.addEventListener('click', start);
  return el('div', 'action', el('p', '', text), button);
}

async function loadSession() {
  const answer = await getJson('/api/v1/session');
  if (!answer) return;
  session = answer;
  const list = $('action-list');
  if (!session.actions) {
    // Switched off is nothing to be told about; switched on without a password is.
    $('actions').hidden = !session.why_not?.includes('password');
    list.replaceChildren(el('p', 'note', session.why_not ?? ''));
    return;
  }
  if (list.dataset.ready) return;
  list.dataset.ready = 'yes';
  list.replaceChildren(
    newAction('Let a follower that holds the whole log take over. Clients see a pause, nothing acknowledged is lost.', 'Fail over…', askFailover),
    newAction('Compare the followers\u2019 images with this one, chunk by chunk, and repair what differs.', 'Scrub…', () => ask('scrub', 'Scrub', [el('p', '', 'Every chunk of every follower that is up to date is read and compared. Commands go on; the devices have more to do.')], () => ({}))),
    newAction('Make a follower\u2019s image this one\u2019s by a delta sync, whatever it holds.', 'Resync…', askResync),
    newAction('Call a failover off that has not gone too far.', 'Abort failover…', () => ask('abort-failover', 'Abort the failover', [el('p', '', 'This leader leads on. If the target has taken over already, it is refused.')], () => ({}))),
  );
  $('actions').hidden = false;
}

function preflight(status, target) {
  const follower = status.followers.find((f) => f.name === target);
  const lines = [
    `At risk if this node died instead: ${status.at_risk.bytes === null ? 'everything' : `${format.bytes(status.at_risk.bytes)}, ${format.time(status.at_risk.us)}`}.`,
    follower
      ? `${follower.name}: ${follower.state}, ${format.bytes(follower.stages[1].lag_bytes)} (${format.time(follower.stages[1].lag_us)}) from durable, ${format.bytes(follower.stages[2].lag_bytes)} from applied; durable p99 ${format.time(follower.stages[1].p99_us)}.`
      : 'Whoever is first to hold the whole log takes over.',
    'Writes wait until it is over, or 10 s at the most; then this leader leads on.',
    `${status.followers_in_reach} in reach now; the new leader needs ${status.sync_followers} for a write, of which this node becomes one.`,
  ];
  if (stalledAny(status)) lines.unshift('▲ A follower stands still at the moment.');
  return el('ul', '', ...lines.map((line) => el('li', '', line)));
}

function stalledAny(status) {
  return status.followers.some(stalled);
}

function selectFollower(...first) {
  const select = el('select', '', ...first);
  select.id = 'target';
  for (const follower of latest.followers.filter((f) => f.online)) {
    const option = el('option', '', follower.name);
    option.value = follower.name;
    select.append(option);
  }
  return select;
}

function askResync() {
  if (!latest) return;
  const select = selectFollower();
  const force = el('input');
  force.id = 'force';
  force.type = 'checkbox';
  const label = el('label', '', 'Who is to be synced: ', select);
  const facts = el(
    'ul', '',
    el('li', '', 'Until the sync has ended, it serves no reads, counts for no write and cannot lead.'),
    el('li', '', 'Only chunks that differ travel. A scrub repairs damage as well, while the follower goes on.'),
    el('li', '', `A write needs ${latest.sync_followers}; ${latest.followers_in_reach} are in reach now.`),
  );
  const anyway = el('label', '', force, ' Also if writes are then refused until it has ended');
  ask('resync', 'Resync a follower', [label, facts, anyway], () => ({ target: select.value, force: force.checked }));
}

function askFailover() {
  if (!latest) return;
  const first = el('option', '', 'whoever is first');
  first.value = '';
  const select = selectFollower(first);
  const label = el('label', '', 'Who is to lead: ', select);
  const facts = el('div');
  const look = () => facts.replaceChildren(preflight(latest, select.value));
  select.addEventListener('change', look);
  look();
  ask('failover', 'Fail over', [label, facts], () => (select.value ? { target: select.value } : {}));
}

function ask(action, title, body, words) {
  asking = { action, words };
  set($('confirm-title'), title);
  $('confirm-body').replaceChildren(...body);
  set($('confirm-expected'), action);
  set($('confirm-result'), '');
  $('confirm-word').value = '';
  $('confirm-go').disabled = true;
  $('confirm').showModal();
  $('confirm-word').focus();
}

$('confirm-word').addEventListener('input', () => {
  $('confirm-go').disabled = $('confirm-word').value !== asking.action;
});
$('confirm-word').addEventListener('keydown', (event) => {
  if (event.key === 'Enter') {
    event.preventDefault();
    if (!$('confirm-go').disabled) $('confirm-go').click();
  }
});
$('confirm-cancel').addEventListener('click', () => $('confirm').close());
$('confirm-go').addEventListener('click', async () => {
  $('confirm-go').disabled = true;
  set($('confirm-result'), 'asking…');
  try {
    const answer = await fetch(`/api/v1/actions/${asking.action}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-farkeep-csrf': session.csrf_token },
      body: JSON.stringify({ confirm: $('confirm-word').value, ...asking.words() }),
    });
    const said = await answer.json();
    set($('confirm-result'), said.ok ? `✓ ${said.text}` : `✕ refused: ${said.text}`);
    if (said.ok) setTimeout(() => $('confirm').close(), 1500);
    else $('confirm-go').disabled = false;
  } catch {
    set($('confirm-result'), '✕ no answer: look at the events before trying again');
  }
});

// ---- Getting data

async function getJson(path) {
  try {
    const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

function show(status) {
  latest = status;
  heardAt = performance.now();
  document.body.classList.remove('waiting', 'stale');
  showHead(status);
  showVerdict(status);
  showTopology(status);
  showFollowers(status);
  showLog(status);
  showPool(status);
  showSync(status);
  for (const button of document.querySelectorAll('#action-list button')) button.disabled = status.role !== 'leader';
  loadEvents(status.last_event);
}

function connect() {
  source?.close();
  source = new EventSource('/api/v1/stream');
  source.onmessage = (event) => show(JSON.parse(event.data));
  source.onerror = () => {
    // The browser gives up for good when the node is gone; this page does not.
    source.close();
    setTimeout(() => { if (!document.hidden) connect(); }, 1000);
  };
}

async function loadHistory() {
  if (document.hidden) return;
  const answer = await getJson(`/api/v1/history?range=${range}`);
  if (!answer) return;
  history = answer;
  draw($('charts'), history);
  if (range === '5m') for (const [id, card] of cards) drawSpark(id, card);
}

function drawSpark(id, card) {
  const follower = latest?.followers.find((f) => f.node_id === id);
  const line = follower && history.followers[follower.name];
  if (line) spark(card.svg, line.durable_lag_us);
}

function showAge() {
  if (document.hidden) return;
  const age = heardAt === null ? null : performance.now() - heardAt;
  const stale = age === null || age > STALE_MS;
  document.body.classList.toggle('stale', stale && latest !== null);
  if (latest === null) set($('age'), 'connecting…');
  else if (!stale) set($('age'), '● live');
  else {
    set($('age'), `▲ no answer for ${format.duration(Math.round(age / 1000))}`);
    $('verdict').dataset.level = 'unknown';
    set($('verdict-icon'), ICONS.unknown);
    set($('verdict-state'), 'unknown');
    set($('verdict-text'), `${latest.name} does not answer. All that is shown is from ${format.clock(latest.at_ms)}.`);
    const others = latest.link ? [latest.link.leader] : latest.followers.map((f) => f.name);
    set($('verdict-advice'), others.length ? `What to do: look at ${others.join(', ')}.` : '');
    document.title = `no answer · ${latest.name}`;
  }
}

// ---- Theme and ranges

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  redraw();
  if (history) draw($('charts'), history);
}

$('theme').addEventListener('click', () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === 'dark'
    : matchMedia('(prefers-color-scheme: dark)').matches;
  const theme = dark ? 'light' : 'dark';
  try { localStorage.setItem('farkeep-theme', theme); } catch { /* The choice holds for this page only. */ }
  applyTheme(theme);
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => applyTheme());

for (const button of document.querySelectorAll('[data-range]')) {
  button.addEventListener('click', () => {
    range = button.dataset.range;
    for (const other of document.querySelectorAll('[data-range]')) other.setAttribute('aria-pressed', String(other === button));
    loadHistory();
  });
}

let resized;
addEventListener('resize', () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (history) draw($('charts'), history); }, 150);
});

try { applyTheme(localStorage.getItem('farkeep-theme')); } catch { /* No storage, no choice. */ }
if (!document.hidden) connect();
loadHistory();
loadSession();
setInterval(loadSession, 10_000);
setInterval(loadHistory, HISTORY_MS);
// Nobody looks at a page that is hidden: it costs the node and this machine nothing.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    source?.close();
    return;
  }
  connect();
  loadHistory();
});
setInterval(showAge, 500);
