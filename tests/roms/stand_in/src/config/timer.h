#ifndef CONFIG_TIMER_H
#define CONFIG_TIMER_H

#include <config/defaults.h>

//#undef	TIMER_PCBIOS
//#define	TIMER_RDTSC

#include <config/local/timer.h>

#endif /* CONFIG_TIMER_H */
