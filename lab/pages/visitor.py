"""Who somebody is from one visit to the next: a random word that their browser keeps."""

from __future__ import annotations

from typing import ClassVar

import param
from panel.custom import JSComponent

ESM = """
export function render({model}) {
  const made = () => [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, '0')).join('')
  const key = 'anderson-lab-visitor'
  let word = null
  try {
    word = localStorage.getItem(key)
    if (!word) { word = made(); localStorage.setItem(key, word) }
  } catch { word = made() }  // a browser that keeps nothing: a new visitor at each visit
  model.word = word
  return document.createElement('span')
}
"""


class Visitor(JSComponent):
    """The browser's word; empty until it has answered."""

    word = param.String(default="", regex=r"[0-9a-f]{0,64}", doc="Random, made by the browser.")

    _esm: ClassVar[str] = ESM
