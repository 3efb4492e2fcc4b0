/* A server that runs PHP in two threads, as FrankenPHP does in many: the first argument is the script of the main thread, the second that of the
   other one. One of them calls wait_for_ever(), the other crash_in_extension(), which faults when the first has come so far. Without a second script,
   the other thread does so without PHP. */
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>
#include <sapi/embed/php_embed.h>

static sem_t is_waiting;
static int *volatile nowhere;

ZEND_BEGIN_ARG_INFO_EX(no_arguments, 0, 0, 0)
ZEND_END_ARG_INFO()

PHP_FUNCTION(wait_for_ever) { sem_post(&is_waiting); for (;;) pause(); }
static void crash(void) { sem_wait(&is_waiting); *nowhere = 1; }
PHP_FUNCTION(crash_in_extension) { crash(); }

static const zend_function_entry functions[] = {
    PHP_FE(wait_for_ever, no_arguments) PHP_FE(crash_in_extension, no_arguments) PHP_FE_END
};

static int start_up(sapi_module_struct *module) {
    module->additional_functions = functions;
#if PHP_VERSION_ID < 80200
    return php_module_startup(module, NULL, 0);
#else
    return php_module_startup(module, NULL);
#endif
}

static void run(const char *path) {
    zend_file_handle script;
    zend_stream_init_filename(&script, path);
    zend_first_try { php_execute_script(&script); } zend_end_try();
}

static void *run_in_thread(void *path) {
    if (!path) crash();
    ts_resource(0);
    if (php_request_startup() == SUCCESS) run(path);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t other;
    if (argc < 2 || sem_init(&is_waiting, 0, 0)) return 2;
    php_embed_module.startup = start_up;
    if (php_embed_init(argc, argv) != SUCCESS) return 2;
    if (pthread_create(&other, NULL, run_in_thread, argc > 2 ? argv[2] : NULL)) return 2;
    run(argv[1]);
    pthread_join(other, NULL);
    return 2;
}
