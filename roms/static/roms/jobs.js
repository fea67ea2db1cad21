"use strict";
// The page of a job: fetches the panel and the new part of the log until the job has finished.
(() => {
    const OFTEN = 1000, LONGEST = 1000000;
    const panel = () => document.getElementById("job-panel");
    const log = () => document.getElementById("job-log");
    let shown = null, updated = new Date();

    function say(text) {
        document.getElementById("job-stale").textContent = text;
    }

    // Replaces the panel only after a change: the user may be about to press a button.
    function show(html) {
        const text = html.trim();
        if (text !== shown) {
            const open = [...panel().querySelectorAll("details")].map((one) => one.open);
            if (shown !== null || text !== panel().innerHTML.trim()) {
                panel().innerHTML = text;
                panel().querySelectorAll("details").forEach((one, n) => { one.open = Boolean(open[n]); });
            }
            shown = text;
        }
    }

    // Adds text, never HTML. Scrolls down only if the user has not scrolled up.
    function append(text) {
        if (!text) {
            return;
        }
        const follows = log().scrollHeight - log().scrollTop - log().clientHeight < 40;
        if (log().textContent.length > LONGEST) {
            log().textContent = log().textContent.slice(-LONGEST / 2);
        }
        log().append(document.createTextNode(text));
        if (follows) {
            log().scrollTop = log().scrollHeight;
        }
    }

    async function refresh() {
        let pause = OFTEN;
        if (!document.hidden) {
            try {
                const response = await fetch(`${panel().dataset.url}?from=${panel().dataset.offset}`, {redirect: "error"});
                if (!response.ok) {
                    throw new Error(response.statusText);
                }
                const news = await response.json();
                show(news.panel);
                append(news.log);
                panel().dataset.offset = news.offset;
                updated = new Date();
                say("");
                if (news.finished) {
                    return;
                }
                pause = news.more ? 0 : OFTEN;
            } catch {
                say(`Not updated since ${updated.toLocaleTimeString()}: the site does not answer, or you are logged out. Reload the page.`);
                pause = 5 * OFTEN;
            }
        }
        setTimeout(refresh, pause);
    }

    document.addEventListener("DOMContentLoaded", () => {
        if (panel()) {
            log().scrollTop = log().scrollHeight;
            if (!panel().dataset.finished) {
                setTimeout(refresh, OFTEN);
            }
        }
    });
})();
