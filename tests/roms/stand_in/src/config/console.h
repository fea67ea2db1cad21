#ifndef CONFIG_CONSOLE_H
#define CONFIG_CONSOLE_H

#include <config/defaults.h>

/* Where it writes to */
//#define CONSOLE_SERIAL	/* The serial port */

#define KEYBOARD_MAP	us	/* The keyboard */
//#define KEYBOARD_MAP	de	/* Another one */

#ifndef CONSOLE_QUIET
#define	COMSPEED	115200		/* Baud */
#endif

#include <config/local/console.h>

#endif /* CONFIG_CONSOLE_H */
