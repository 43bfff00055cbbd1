// The drawing pad. Mouse, finger and pen draw on its canvas; so do the arrow keys, with the pen down.
// Gradio runs this once, with `element` (the pad), `props` and `trigger`.
const canvas = element.querySelector("canvas");
const pen = element.querySelector(".pen");
const context = canvas.getContext("2d");
const WAIT = 150; // milliseconds between two questions while a stroke goes on
const STEP = canvas.width / 28; // of an arrow key
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
let last = null; // the stroke's last point
let keys = {x: canvas.width / 2, y: canvas.height / 4, down: false}; // the keyboard's pen
let empty = true;
let timer = null;

function clear() {
    context.fillStyle = canvas.dataset.paper;
    context.fillRect(0, 0, canvas.width, canvas.height);
    empty = true;
}

function draw(from, to) {
    context.strokeStyle = canvas.dataset.ink;
    context.lineWidth = canvas.width / 13;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    empty = false;
}

function ask() {
    clearTimeout(timer);
    timer = null;
    props.value = empty ? "" : canvas.toDataURL("image/png");
    trigger("change");
}

function askSoon() {
    timer ??= setTimeout(ask, WAIT);
}

function point(event) {
    const box = canvas.getBoundingClientRect();
    return {
        x: (event.clientX - box.left) / box.width * canvas.width,
        y: (event.clientY - box.top) / box.height * canvas.height,
    };
}

function movePen() {
    pen.style.left = `${100 * keys.x / canvas.width}%`;
    pen.style.top = `${100 * keys.y / canvas.height}%`;
    pen.classList.toggle("down", keys.down);
}

canvas.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = point(event);
    draw(last, last);
    askSoon();
});

canvas.addEventListener("pointermove", event => {
    if (!last) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) {
        const next = point(each);
        draw(last, next);
        last = next;
    }
    askSoon();
});

for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
        if (last) ask();
        last = null;
    });
}

canvas.addEventListener("keydown", event => {
    if (event.key === " ") {
        keys.down = !keys.down;
    } else if (event.key in ARROWS) {
        const [right, down] = ARROWS[event.key];
        const from = {x: keys.x, y: keys.y};
        keys.x = Math.min(canvas.width, Math.max(0, keys.x + right * STEP));
        keys.y = Math.min(canvas.height, Math.max(0, keys.y + down * STEP));
        if (keys.down) draw(from, keys);
    } else {
        return;
    }
    event.preventDefault();
    movePen();
    if (keys.down) askSoon();
});

element.querySelector("button").addEventListener("click", () => {
    clear();
    ask();
});

clear();
movePen();
