/* A Ruby extension one of whose functions calls the other through Ruby, which faults. */
#include <ruby.h>

static VALUE hash_key(VALUE self, VALUE text)
{
    volatile const char *cache = (const char *)0x7;
    return INT2FIX(cache[RSTRING_LEN(text)]);
}

static VALUE parse(VALUE self, VALUE text)
{
    return rb_funcall(self, rb_intern("calc_hash_key"), 1, text);
}

void Init_parser(void)
{
    VALUE module = rb_define_module("FastParser");
    rb_define_module_function(module, "calc_hash_key", hash_key, 1);
    rb_define_module_function(module, "parse", parse, 1);
}
