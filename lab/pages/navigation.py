"""The names of the pages in the header: links that switch in place."""

from __future__ import annotations

from typing import ClassVar

import param
from panel.custom import JSComponent

ESM = """
export function render({model}) {
  const nav = document.createElement('nav')
  nav.setAttribute('aria-label', 'Pages')
  const address = (name) => {
    const query = new URLSearchParams(window.location.search)
    query.set('page', name)
    return '?' + query
  }
  const links = model.names.map((name) => {
    const link = document.createElement('a')
    link.textContent = name
    link.href = address(name)
    link.addEventListener('pointerdown', () => { link.href = address(name) })
    link.addEventListener('click', (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return  // a window of its own
      event.preventDefault()
      model.current = name
    })
    nav.append(link)
    return link
  })
  const mark = () => links.forEach((link) => {
    if (link.textContent === model.current) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  })
  const back = () => {
    const name = new URLSearchParams(window.location.search).get('page') ?? model.names[0]
    if (model.names.includes(name)) model.current = name
  }
  model.on('current', mark)
  window.addEventListener('popstate', back)
  model.on('remove', () => window.removeEventListener('popstate', back))
  mark()
  return nav
}
"""
STYLE = """
nav { display: flex; gap: 18px; white-space: nowrap; }
@media (max-width: 480px) { nav { gap: 8px; margin-left: -12px; } }
a {
  color: var(--panel-on-secondary-color, #51606f); text-decoration: none;
  font: 500 14px Roboto, "Helvetica Neue", Arial, sans-serif;
  padding: 4px 2px; border-bottom: 2px solid transparent;
}
a:hover { color: var(--panel-on-surface-color, #16202b); }
a:focus-visible {
  outline: 2px solid var(--panel-primary-color); outline-offset: 2px; border-radius: 3px;
}
a[aria-current] {
  color: var(--panel-primary-color); border-bottom-color: var(--panel-primary-color);
}
"""


class Navigation(JSComponent):
    """Which page is shown; a click, the keyboard and the browser's way back change it."""

    names = param.List(default=[], doc="The pages, in their order.")
    current = param.String(default="", doc="The page that is shown.")

    _esm: ClassVar[str] = ESM
    _stylesheets: ClassVar[list[str]] = [STYLE]
