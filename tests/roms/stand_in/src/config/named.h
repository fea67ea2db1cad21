#ifndef CONFIG_NAMED_H
#define CONFIG_NAMED_H

#define NAMED_CONFIG(_header) <config/_header>

#endif /* CONFIG_NAMED_H */
