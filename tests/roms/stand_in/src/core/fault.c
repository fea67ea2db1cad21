#include <config/fault.h>
#ifdef FAULT_COMPILER
#error "this was asked for"
#endif
#ifdef FAULT_HANG
HANG
#endif
#ifdef FAULT_DISK_FULL
DISK_FULL
#endif
#ifdef FAULT_TELL
TELL
#endif
#ifdef FAULT_TOO_LARGE
FEATURE fault 200000
#endif
