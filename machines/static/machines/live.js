"use strict";
// The page of a machine: updates the panel, more often during a rescue, and handles the copy buttons.
(() => {
    const OFTEN = 2000, SELDOM = 10000;
    const panel = () => document.getElementById("panel");
    const isLive = () => Boolean(panel().querySelector("[data-live='1']"));
    let shown = "", updated = new Date();

    function say(text) {
        document.getElementById("panel-stale").textContent = text;
    }

    // Replace the panel only after a change, to keep selected text and the scroll position.
    function show(html) {
        if (html === shown) {
            return;
        }
        const first = shown === "";
        shown = html;
        const scrolled = panel().querySelector(".timeline").scrollTop;
        if (!first || html.trim() !== panel().innerHTML.trim()) {
            panel().innerHTML = html;
            panel().querySelector(".timeline").scrollTop = scrolled;
        }
    }

    async function refresh() {
        if (!document.hidden) {
            try {
                const response = await fetch(panel().dataset.url, {redirect: "error"});
                if (!response.ok) {
                    throw new Error(response.statusText);
                }
                show(await response.text());
                updated = new Date();
                say("");
            } catch {
                say(`Not updated since ${updated.toLocaleTimeString()}. The site does not respond, or you are logged out. Reload the page.`);
            }
        }
        setTimeout(refresh, isLive() ? OFTEN : SELDOM);
    }

    // Browsers offer navigator.clipboard only over https and on localhost.
    async function copy(text, beside) {
        try {
            await navigator.clipboard.writeText(text);
            return true;
        } catch {
            const range = document.createRange();
            range.selectNodeContents(beside);
            const selection = window.getSelection();
            selection.removeAllRanges();
            selection.addRange(range);
            return document.execCommand("copy");
        }
    }

    document.addEventListener("click", async (event) => {
        const text = event.target.dataset?.copy;
        if (text) {
            const done = await copy(text, event.target.parentElement.querySelector("code"));
            event.target.textContent = done ? "Copied" : "Press Ctrl-C";
        }
    });
    document.addEventListener("DOMContentLoaded", () => {
        if (panel()) {
            setTimeout(refresh, isLive() ? OFTEN : SELDOM);
        }
    });
})();
