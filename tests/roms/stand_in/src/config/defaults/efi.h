#ifndef CONFIG_DEFAULTS_EFI_H
#define CONFIG_DEFAULTS_EFI_H

#define TIMER_EFI
#if defined ( __i386__ ) || defined ( __x86_64__ )
#define FDT_NULL
#else
#define FDT_EFI
#endif

#endif /* CONFIG_DEFAULTS_EFI_H */
