/* A keyboard map; only its name counts here. */
