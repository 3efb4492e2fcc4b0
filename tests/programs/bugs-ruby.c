/* A Ruby extension with two bugs. */
#include <ruby.h>

int *volatile nothing;

static VALUE here(VALUE self) { (void)self; return INT2NUM(*nothing + 1); }
static VALUE there(VALUE self) { (void)self; return INT2NUM(*nothing + 2); }
void Init_bugs(void)
{
    VALUE module = rb_define_module("Bugs");
    rb_define_module_function(module, "here", here, 0);
    rb_define_module_function(module, "there", there, 0);
}
