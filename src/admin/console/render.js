// A keyed renderer: `h()` describes a node, `render()` makes the page what is described and touches only what differs.
// Text always becomes text nodes, and nothing here reads markup: what a stranger sends stays text. Focus, selection and
// what was typed survive, since nodes are kept by key, and a value is only written when the description changes it.

/** @typedef {{tag: string, key: string, props: Object<string, any>, children: Node_[], text?: string, el?: any}} Node_ */

const SVG = 'http://www.w3.org/2000/svg';
// Attributes only say how these began.
const PROPERTIES = new Set(['value', 'checked', 'disabled', 'hidden', 'open', 'selected', 'scrollTop', 'indeterminate']);

/** `h('p.soft', { title: 'why' }, 'text')`; properties may be left out. @param {string} tag @param {...any} rest @returns {Node_} */
export function h(tag, ...rest) {
  const [name, ...classes] = tag.split('.');
  const first = rest[0];
  const hasProps = first && typeof first === 'object' && !Array.isArray(first) && first.tag === undefined;
  const props = hasProps ? rest.shift() : {};
  if (classes.length) props.class = classes.concat(props.class || []).join(' ');
  return { tag: name, key: props.key == null ? '' : `=${props.key}`, props, children: flat(rest, '') };
}

/** Makes the children of `root` what `tree` says. @param {any} root @param {...any} tree */
export function render(root, ...tree) {
  const focused = /** @type {any} */ (document.activeElement);
  const next = flat(tree, '');
  // What the page says until there is something to show.
  if (!root.drawn) root.textContent = '';
  children(root, root.drawn || [], next, root.namespaceURI === SVG);
  root.drawn = next;
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

/** Absent children keep their place, so that those after them are still known. */
function flat(list, place, out = /** @type {Node_[]} */ ([])) {
  list.forEach((/** @type {any} */ item, /** @type {number} */ at) => {
    if (item == null || item === false || item === true) return;
    if (Array.isArray(item)) return flat(item, `${place}${at}.`, out);
    const node = typeof item === 'object' ? item : { tag: '', key: '', text: String(item), children: [] };
    node.key ||= `${place}${at}`;
    out.push(node);
  });
  return out;
}

function children(parent, old, next, svg) {
  if (old.length === 0 && next.length === 0) return;
  const wanted = new Map(next.map((node) => [node.key, node]));
  const known = new Map();
  // Removals first: otherwise all that follows a removed node would move, and what moves may lose its focus.
  for (const was of old) {
    const node = wanted.get(was.key);
    if (node && node.tag === was.tag && !known.has(was.key)) known.set(was.key, was);
    else was.el.remove();
  }
  let at = parent.firstChild;
  for (const node of next) {
    const was = known.get(node.key);
    if (was) {
      known.delete(node.key);
      if (was !== node) update(node, was, svg);
    } else create(node, svg);
    if (node.el === at) at = at.nextSibling;
    else if (was && parent.moveBefore) parent.moveBefore(node.el, at);
    else parent.insertBefore(node.el, at);
  }
}

function create(node, svg) {
  if (!node.tag) {
    node.el = document.createTextNode(node.text);
    return;
  }
  const inside = svg || node.tag === 'svg';
  node.el = inside ? document.createElementNS(SVG, node.tag) : document.createElement(node.tag);
  children(node.el, [], node.children, inside);
  // After the children: a select takes its value from its options.
  for (const name in node.props) set(node.el, name, node.props[name], undefined);
  node.props.made?.(node.el);
}

function update(node, was, svg) {
  node.el = was.el;
  if (!node.tag) {
    if (node.text !== was.text) node.el.data = node.text;
    return;
  }
  children(node.el, was.children, node.children, svg || node.tag === 'svg');
  for (const name in was.props) if (!(name in node.props)) set(node.el, name, undefined, was.props[name]);
  for (const name in node.props) set(node.el, name, node.props[name], was.props[name]);
}

function set(el, name, value, was) {
  if (name === 'key' || name === 'made' || value === was) return;
  if (name === 'style') {
    for (const rule in { ...was, ...value }) {
      // By the object model: a style attribute would be against the page's policy.
      if (value?.[rule] !== was?.[rule]) el.style.setProperty(rule, value?.[rule] ?? null);
    }
  } else if (name.startsWith('on')) el[name] = value || null;
  else if (PROPERTIES.has(name)) el[name] = value ?? (name === 'value' ? '' : false);
  else if (value == null || value === false) el.removeAttribute(name);
  else el.setAttribute(name, value === true ? '' : value);
}
