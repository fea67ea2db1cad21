#ifndef CONFIG_FAULT_H
#define CONFIG_FAULT_H

/** A source file that does not compile */
//#define FAULT_COMPILER

/** A source file that takes an hour */
//#define FAULT_HANG

/** A ROM that no length byte can hold */
//#define FAULT_TOO_LARGE

/** A disk without space */
//#define FAULT_DISK_FULL

/** Reports for each object what the environment holds */
//#define FAULT_TELL

#include <config/local/fault.h>

#endif /* CONFIG_FAULT_H */
