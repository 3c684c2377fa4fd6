// Puts the page together, keeps its theme, and follows a study that is still running.

const kSections = [['deploy', 'Deploy'], ['table1', 'Table 1'], ['issues', 'Issues'], ['models', 'Models'], ['finetuning', 'Fine-tuning'], ['tables', 'Tables'], ['answers', 'Answers'], ['study', 'Study']];

// Of a study that names no fine-tuned model, nothing.
function finetuningSection() {
  const pairs = state.study.finetuned;
  document.querySelector('#sections a[href="#finetuning"]').hidden = !pairs.length;
  if (!pairs.length) return [];
  return section('finetuning', 'What fine-tuning changed',
    el('p', {class: 'lead'}, 'What quantization costs each model against its own 16-bit form: points of right answers, per cent of perplexity, KL in nats. The difference is fine-tuned less base with its standard error: on tasks row by row on the same rows, of KLs as of two independent means.'),
    pairs.flatMap(({model, base, measures, layers}) => {
      const title = `${model}, fine-tuned from ${base}`, key = `finetuned ${model} ${base}`;
      return [el('h3', {class: 'group'}, title),
        measures.rows.length ? registryTable(key, title, measures) : el('p', {class: 'empty'}, 'The two models have no configuration in common.'),
        ...layers.rows.length ? [el('h4', {class: 'group'}, 'Relative output errors of the layers that grew most'), registryTable(`${key} layers`, `Layers of ${title}`, layers)] : []];
    }));
}

function tablesSection() {
  const {tables, comparisons} = state.study;
  return section('tables', 'All measurements',
    el('p', {class: 'lead'}, `Click a head to sort, type to filter. p is McNemar's exact test, by clusters where rows share one (perplexities: paired t-test); p (Holm) is corrected over all ${comparisons} comparisons.`),
    el('h3', {class: 'group'}, 'Scores'), registryTable('scores', 'Scores of every cell', tables.scores),
    el('h3', {class: 'group'}, 'Size, speed and memory'), registryTable('efficiency', 'Size, speed and memory of every variant', tables.efficiency),
    el('h3', {class: 'group'}, 'Speed and memory by task'), registryTable('speed', 'Speed and memory of every cell', tables.speed));
}

function studySection() {
  const {head, study_toml: toml, tables} = state.study;
  return section('study', 'The study',
    el('div', {class: 'card'}, el('dl', {class: 'facts'}, head.flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]))),
    el('h3', {class: 'group'}, 'Tasks'), registryTable('tasks', 'Tasks as measured', tables.tasks),
    el('h3', {class: 'group'}, 'Again'),
    el('p', {class: 'lead'}, 'nibble study study.toml --out DIR repeats it with the file below; nibble report DIR makes this page.'),
    toml ? fold('toml', 'study.toml', 'fold', el('pre', {class: 'block', tabindex: 0}, toml)) : el('p', {class: 'empty'}, 'The study file is not stored.'));
}

function drawAll() {
  const focused = document.activeElement && document.activeElement.tagName === 'SELECT'
    ? [...document.querySelectorAll('select')].indexOf(document.activeElement) : -1;
  const top = window.scrollY;
  forgetCharts();
  const main = document.getElementById('main');
  main.style.minHeight = `${main.offsetHeight}px`;  // so that the page does not jump while it is empty
  main.replaceChildren(...[deploySection(), table1Section(), issuesSection(), modelSection(), finetuningSection(), tablesSection(), answersSection(), studySection()].flat());
  main.style.minHeight = '';
  window.scrollTo({top, behavior: 'instant'});
  if (focused >= 0) document.querySelectorAll('select')[focused]?.focus({preventScroll: true});
}

function showModel(i) {
  state.model = i;
  drawAll();
  document.querySelectorAll('.picker button')[i]?.focus({preventScroll: true});
}

// ---- theme: the system's, until a person chooses

const kThemes = ['auto', 'light', 'dark'];
function stored(value) {
  try {
    if (value !== undefined) localStorage.setItem('nibble-theme', value);
    return localStorage.getItem('nibble-theme');
  } catch {
    return value;  // storage is switched off: the choice lasts as long as the page
  }
}
let theme = kThemes.includes(stored()) ? stored() : 'auto';
function applyTheme(name) {
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  document.getElementById('theme').textContent = `Theme: ${theme}`;
}
document.getElementById('theme').addEventListener('click', () => {
  theme = kThemes[(kThemes.indexOf(theme) + 1) % kThemes.length];
  stored(theme);
  applyTheme(theme);
  drawAll();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => drawAll());
// Paper is light.
function print(on) {
  state.printing = on;
  applyTheme(on ? 'light' : theme);
  drawAll();
}
addEventListener('beforeprint', () => print(true));
addEventListener('afterprint', () => print(false));

// ---- a running study: ask for what is new; the server answers 304 while nothing is

const kPollMs = 3000;
let tag = null;
async function poll() {
  try {
    const answer = await fetch('data.json', {headers: tag ? {'If-None-Match': tag} : {}, cache: 'no-store'});
    if (answer.ok) {
      tag = answer.headers.get('ETag');
      state.study = await answer.json();
      drawAll();
      footer(`Live: ${state.study.progress}.`);
    }
  } catch {
    footer('The server has ended; this is its last state.');
  }
  setTimeout(poll, kPollMs);
}

function footer(text) {
  document.getElementById('footer').textContent = text;
}

document.getElementById('sections').append(...kSections.map(([id, name]) => el('a', {href: `#${id}`}, name)));
applyTheme(theme);
drawAll();
if (state.study.live) {
  footer(`Live: ${state.study.progress}.`);
  setTimeout(poll, kPollMs);
} else {
  footer('Made by nibble from stored results. This file needs no network.');
}
