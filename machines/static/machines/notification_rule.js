"use strict";
// The form of a notification rule shows only the fields of the chosen channel.
document.addEventListener("DOMContentLoaded", () => {
    const kind = document.getElementById("id_kind");
    if (!kind) {
        return;
    }
    const fields = JSON.parse(kind.dataset.fields);
    function show() {
        for (const name of Object.values(fields).flat()) {
            const row = document.querySelector(`.form-row.field-${name}`);
            row.classList.toggle("hidden", !fields[kind.value].includes(name));
        }
    }
    kind.addEventListener("change", show);
    show();
});
