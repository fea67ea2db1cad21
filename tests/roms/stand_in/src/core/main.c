#include <config/timer.h>
FEATURE main 26000
