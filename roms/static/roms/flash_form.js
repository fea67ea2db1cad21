"use strict";
// The form of a flash job: hides the fields that do not apply, and shows which name to type. The server checks it.
(() => {
    const form = () => document.getElementById("flashjob-ask");

    function chosenText(name) {
        const select = form().elements[name];
        return select.value ? select.options[select.selectedIndex].text : "";
    }

    function arrange() {
        const action = form().querySelector("[name=action]:checked")?.value;
        form().querySelector(".form-row.field-build").hidden = action !== "flash";
        form().querySelector(".form-row.field-restores").hidden = action !== "restore";
        form().querySelectorAll("[data-for]").forEach((one) => { one.hidden = !one.dataset.for.split(" ").includes(action); });
        document.querySelectorAll("[data-station]").forEach((one) => { one.hidden = one.dataset.station !== form().elements.station.value; });
        const name = chosenText("machine") || chosenText("station");
        const help = document.querySelector("#id_confirm_helptext div");
        const typed = Object.assign(document.createElement("b"), {textContent: name || "the name"});
        help.replaceChildren("Type ", typed, chosenText("machine") ? ", the machine's name." : ", the station's name.");
        form().querySelector("input[type=submit].default").value = {save: "Save the contents", restore: "Restore"}[action] || "Flash";
    }

    document.addEventListener("DOMContentLoaded", () => {
        if (form()) {
            arrange();
            django.jQuery(form()).on("change", arrange);
        }
    });
})();
