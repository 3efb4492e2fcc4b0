/* A PHP extension with a bug: crash_in_extension() follows a pointer that nobody has set. */
#include <php.h>

struct topic { const char *title; };
static struct topic *volatile current;

ZEND_BEGIN_ARG_INFO_EX(no_arguments, 0, 0, 0)
ZEND_END_ARG_INFO()

PHP_FUNCTION(crash_in_extension) { RETURN_LONG(current->title[0]); }

static const zend_function_entry functions[] = {PHP_FE(crash_in_extension, no_arguments) PHP_FE_END};

zend_module_entry topics_module_entry = {
    STANDARD_MODULE_HEADER, "topics", functions, NULL, NULL, NULL, NULL, NULL, "1.0", STANDARD_MODULE_PROPERTIES,
};
ZEND_GET_MODULE(topics)
