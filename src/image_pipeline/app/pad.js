// The drawing pad: draw with mouse, finger or pen, or with the arrow keys while the pen is down.
// Gradio runs this once, with `element` (the pad), `props` and `trigger`.
const canvas = element.querySelector("canvas");
const pen = element.querySelector(".pen");
const context = canvas.getContext("2d");
const DELAY = 150; // milliseconds between predictions during a stroke
const STEP = canvas.width / 28; // how far an arrow key moves the pen
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
let last = null; // last point of the current stroke
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

function submit() {
    clearTimeout(timer);
    timer = null;
    props.value = empty ? "" : canvas.toDataURL("image/png");
    trigger("change");
}

function submitSoon() {
    timer ??= setTimeout(submit, DELAY);
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
    submitSoon();
});

canvas.addEventListener("pointermove", event => {
    if (!last) return;
    const coalesced = event.getCoalescedEvents?.() ?? [];
    for (const each of coalesced.length ? coalesced : [event]) {
        const next = point(each);
        draw(last, next);
        last = next;
    }
    submitSoon();
});

for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
        if (last) submit();
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
    if (keys.down) submitSoon();
});

element.querySelector("button").addEventListener("click", () => {
    clear();
    submit();
});

clear();
movePen();
