/* A Python extension with two bugs. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

int *volatile nothing;

static PyObject *here(PyObject *self, PyObject *args) { (void)self; (void)args; return PyLong_FromLong(*nothing + 1); }
static PyObject *there(PyObject *self, PyObject *args) { (void)self; (void)args; return PyLong_FromLong(*nothing + 2); }
static PyMethodDef methods[] = {{"here", here, METH_NOARGS, ""}, {"there", there, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "bugs", "", -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_bugs(void) { return PyModule_Create(&module); }
