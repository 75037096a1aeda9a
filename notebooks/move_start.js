// Moves the start of the rate fan: by the slider, or to where the plane is clicked or dragged.
// The table holds half a turn of starts; the other half is its mirror image.
const step = 180 / angles
let [x, y] = [start.data.x[0], start.data.y[0]]
const before = Math.hypot(x, y)
if (cb_obj !== slider) [x, y] = [cb_obj.x, cb_obj.y]
if (!(Math.hypot(x, y) > 0)) return
const turn = cb_obj === slider ? slider.value : (Math.atan2(y, x) * 180 / Math.PI + 360) % 360
const place = Math.round(turn / step) % (2 * angles)
const radius = cb_obj === slider ? before : Math.min(Math.max(Math.hypot(x, y), 0.1), 1)
start.data = {
  x: [radius * Math.cos(place * step * Math.PI / 180)],
  y: [radius * Math.sin(place * step * Math.PI / 180)],
}
const scale = radius * (place < angles ? 1 : -1)
const first = (place % angles) * steps
for (const [name, source] of Object.entries(shown)) {
  const factor = name === 'path' || name === 'forward' ? scale : 1
  const column = (axis) => Array.from(table.data[`${name}_${axis}`].slice(first, first + steps), (v) => factor * v)
  source.data = {x: column('x'), y: column('y')}
}
says.text = sentence.replace('{angle}', (place * step).toFixed(1))
  .replace('{rate}', table.data.rate[first].toFixed(3))
if (slider.value !== place * step) slider.value = place * step
