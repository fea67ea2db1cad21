#ifndef CONFIG_BRANDING_H
#define CONFIG_BRANDING_H

/** The name that it shows
 *
 * Vendors may put theirs here.
 */
#define PRODUCT_NAME "Stand-in"

/** Where errors are explained */
#define PRODUCT_ERROR_URI "https://example.net/%08x"

#include <config/local/branding.h>

#endif /* CONFIG_BRANDING_H */
