"use strict";
// The form of a build: hides the fields that do not apply, and updates the preview after each change.
(() => {
    const SOON = 250;
    const form = () => document.getElementById("build-ask");
    const touched = new Set();
    let waiting = null, asked = 0;

    function chosen(name) {
        return form().querySelector(`[name=${name}]:checked`)?.value;
    }

    function row(name) {
        return form().querySelector(`.form-row.field-${name}`);
    }

    function arrange() {
        const byHand = chosen("source") === "hand", isStatic = chosen("network") === "static";
        row("text").hidden = !byHand;
        for (const name of ["site", "network", "variables", "tries", "link_wait", "nic", "serial_console"]) {
            row(name).hidden = byHand;
        }
        for (const name of ["ip", "gateway"]) {
            row(name).hidden = byHand || !isStatic;
        }
    }

    // Shows errors only at fields that the user has changed.
    function mark(errors) {
        for (const name of touched) {
            const own = form().querySelector(`.fieldBox.field-${name}`) || row(name);
            if (!own) {
                continue;
            }
            const holder = own.classList.contains("fieldBox") ? own.parentElement : own;
            holder.querySelectorAll(":scope > ul.errorlist").forEach((list) => list.remove());
            own.classList.toggle("errors", Boolean(errors[name]));
            if (errors[name]) {
                const list = document.createElement("ul");
                list.className = "errorlist";
                for (const text of errors[name]) {
                    list.append(Object.assign(document.createElement("li"), {textContent: text}));
                }
                holder.prepend(list);
            }
        }
    }

    async function preview() {
        const mine = ++asked;
        const stale = document.getElementById("preview-stale");
        try {
            const response = await fetch(form().dataset.preview, {method: "POST", body: new FormData(form()), redirect: "error"});
            if (!response.ok) {
                throw new Error(response.statusText);
            }
            const news = await response.json();
            // Ignore the answer to an older request.
            if (mine === asked) {
                const place = document.getElementById("preview");
                const scrolled = place.querySelector(".script")?.scrollTop || 0;
                place.innerHTML = news.html;
                const script = place.querySelector(".script");
                if (script) {
                    script.scrollTop = scrolled;
                }
                mark(news.errors);
                stale.textContent = "";
            }
        } catch {
            stale.textContent = "The preview is out of date: the site does not answer, or you are logged out.";
        }
    }

    function changed(event) {
        if (event.target.name) {
            touched.add(event.target.name);
        }
        arrange();
        clearTimeout(waiting);
        waiting = setTimeout(preview, SOON);
    }

    document.addEventListener("DOMContentLoaded", () => {
        if (!form()) {
            return;
        }
        form().querySelector("[name=_preview]").hidden = true;
        arrange();
        // The autocomplete widget for the card triggers only jQuery events.
        django.jQuery(form()).on("input change", changed);
        form().addEventListener("click", (event) => {
            const {profile, file} = event.target.dataset || {};
            if (profile) {
                form().elements.profile.value = profile;
                form().elements.profile.dispatchEvent(new Event("change", {bubbles: true}));
            }
            if (file) {
                const site = form().elements.site;
                const host = site.value.match(/^[a-z]+:\/\/([^/:]+)/i)?.[1] || location.hostname;
                site.value = `${file}://${host}/MAC-\${mac:hexraw}.ipxe`;
                site.dispatchEvent(new Event("change", {bubbles: true}));
            }
        });
    });
})();
