// The browser of answers that quantization changed.

const kPageOfAnswers = 15;

function answerBox(title, [prediction, output, right], gold) {
  return el('div', {}, el('h3', {}, title, ' ', el('span', {class: `badge ${right ? 'good' : 'bad'}`}, right ? 'right' : 'wrong')),
    output ? el('pre', {tabindex: 0}, output) : null,
    el('p', {class: 'small', style: 'margin:.3rem 0 0'}, 'Taken as: ', el('code', {}, prediction === '' ? '(nothing)' : prediction), gold === null ? null : [' · gold: ', el('code', {}, gold)]));
}

function answerRow(model, task, row, only) {
  const changed = row.changed.filter(([v]) => only === 'any' || model.variants[v].label === only);
  const badges = changed.map(([v, answer]) => el('span', {class: `badge ${answer[2] === row.baseline[2] ? '' : answer[2] ? 'good' : 'bad'}`},
    `${model.variants[v].label}: ${row.baseline[2] ? 'right' : 'wrong'} → ${answer[2] ? 'right' : 'wrong'}`));
  const lines = row.prompt.trim().split('\n').filter(Boolean);
  const question = lines.filter((l) => /^(Question|Query):/.test(l)).pop() || lines[lines.length - 1] || '';
  const node = fold(`answer ${model.name} ${task} ${row.key}`, '', 'answer');
  node.querySelector('summary').append(el('span', {class: 'muted small'}, `#${row.key}`), el('span', {class: 'text'}, question), ...badges);
  const fillBody = () => {
    if (node.children.length > 1) return;
    node.append(el('div', {class: 'body'},
      el('div', {}, el('h3', {}, 'Prompt'), row.left_out ? el('p', {class: 'small muted', style: 'margin:0'}, `The first ${row.left_out} bytes are left out here; results.db has them.`) : null,
        el('pre', {tabindex: 0}, row.prompt)),
      el('div', {class: 'pairs'}, answerBox('Baseline', row.baseline, row.gold), changed.map(([v, answer]) => answerBox(model.variants[v].label, answer, row.gold)))));
  };
  if (node.open) fillBody();
  node.addEventListener('toggle', fillBody);
  return node;
}

function answersSection() {
  const node = section('answers', 'Answers that changed');
  const all = state.study.answers.filter((a) => a.rows > 0);
  if (!all.length) {
    node.append(el('p', {class: 'empty'}, 'No answers to compare are stored yet.'));
    return node;
  }
  const content = el('div');
  const controls = el('div', {class: 'controls'});
  const draw = () => {
    const names = [...new Set(all.map((a) => a.model))];
    const model = selector('answers model', 'Model', names.map((n) => [n, n]), draw);
    const mine = all.filter((a) => a.model === state.selects['answers model']);
    const task = selector('answers task', 'Task', mine.map((a) => [a.task, a.task]), draw);
    const found = mine.find((a) => a.task === state.selects['answers task']);
    const info = state.study.models.find((m) => m.name === found.model);
    const labels = info.variants.filter((v) => !v.baseline).map((v) => [v.label, v.label]);
    const variant = selector('answers variant', 'Variant', [['any', 'any'], ...labels], draw);
    const kind = selector('answers kind', 'Change', [['all', 'all'], ['lost', 'right → wrong'], ['won', 'wrong → right'], ['same', 'another answer, as right or wrong']], draw);
    const only = state.selects['answers variant'], wanted = state.selects['answers kind'];
    const fits = (row) => row.changed.some(([v, a]) => (only === 'any' || info.variants[v].label === only) &&
      (wanted === 'all' || wanted === (a[2] === row.baseline[2] ? 'same' : a[2] ? 'won' : 'lost')));
    const rows = found.shown.filter(fits);
    controls.replaceChildren(model, task, variant, kind);
    const left = found.changed - found.shown.length;
    content.replaceChildren(el('p', {class: 'muted small'}, `${found.changed} of ${found.rows} rows answered otherwise by some variant; ${rows.length} fit.` +
      (left > 0 ? ` ${left} more are in results.db and left out here to keep the page small.` : '')));
    let shown = 0;
    const more = el('button', {type: 'button', class: 'quiet more', onclick: () => add()}, 'Show more');
    const add = () => {
      for (const row of rows.slice(shown, shown + kPageOfAnswers)) content.insertBefore(answerRow(info, found.task, row, only), more);
      shown += kPageOfAnswers;
      more.hidden = shown >= rows.length;
    };
    content.append(more);
    add();
  };
  draw();
  node.append(el('p', {class: 'lead'}, 'The same rows, asked of the baseline and of each variant. Accuracy can hold while answers change both ways.'), controls, content);
  return node;
}
