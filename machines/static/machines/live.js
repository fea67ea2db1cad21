"use strict";
// A machine's page: fetches its panel again while a rescue is under way, and copies what has a copy button.
(() => {
    const EVERY = 2000;
    const panel = () => document.getElementById("panel");
    const isLive = () => panel()?.querySelector("[data-live='1']");

    async function refresh() {
        if (!document.hidden) {
            try {
                const response = await fetch(panel().dataset.url, {redirect: "error"});
                if (response.ok) {
                    const list = panel().querySelector(".timeline");
                    const scrolled = list ? list.scrollTop : 0;
                    panel().innerHTML = await response.text();
                    panel().querySelector(".timeline").scrollTop = scrolled;
                }
            } catch {
                // The site may be restarting; the next try will tell.
            }
        }
        if (isLive()) {
            setTimeout(refresh, EVERY);
        }
    }

    document.addEventListener("click", async (event) => {
        const text = event.target.dataset?.copy;
        if (text) {
            await navigator.clipboard.writeText(text);
            event.target.textContent = "Copied";
        }
    });
    document.addEventListener("DOMContentLoaded", () => {
        if (isLive()) {
            setTimeout(refresh, EVERY);
        }
    });
})();
