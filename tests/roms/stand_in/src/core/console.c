#include <config/console.h>
#include <config/branding.h>
#ifdef CONSOLE_SERIAL
FEATURE serial 500
#endif
FEATURE console 4000
FEATURE product 0 PRODUCT_NAME
