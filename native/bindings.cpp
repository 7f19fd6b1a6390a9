// The Python face: the only file that includes nanobind. Tensors come as addresses (data_ptr() costs a tenth of DLPack, and takes
// tensors that require grad); the Python side knows their shapes and keeps them alive during the call.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "run.h"

namespace nb = nanobind;
using namespace longshort;

namespace {

struct Reader {  // reads a tuple of ints in order
  PyObject* tuple;
  Py_ssize_t at = 0;
  explicit Reader(const nb::tuple& t) : tuple(t.ptr()) {}
  int64_t number() { return PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, at++)); }
  template <class T>
  void operator()(T*& p) {
    p = (T*)PyLong_AsVoidPtr(PyTuple_GET_ITEM(tuple, at++));
  }
  void done(Py_ssize_t n) const {
    if (PyTuple_GET_SIZE(tuple) != n || PyErr_Occurred()) throw nb::type_error("a tuple of addresses has the wrong length or kind");
  }
};

Params params_of(const nb::tuple& t) {
  Reader r(t);
  r.done(9);
  Params p;
  r(p.weight_ih), r(p.weight_hh), r(p.bias_ih), r(p.bias_hh), r(p.weight_hr), r(p.weight_ch), r(p.gain_ih), r(p.gain_hh), r(p.gain_c);
  return p;
}
Input input_of(const nb::tuple& t) {
  Reader r(t);
  r.done(15);
  Input in;
  in.T = r.number(), in.B = r.number();
  r(in.sizes), r(in.x);
  in.x_t = r.number(), in.x_b = r.number();
  r(in.lengths), r(in.resets), r(in.drop_h), r(in.drop_g), r(in.zone_h), r(in.zone_c);
  in.reverse = r.number();
  r(in.h0), r(in.c0);
  return in;
}
Output output_of(const nb::tuple& t) {
  Reader r(t);
  r.done(8);
  Output o;
  r(o.y), r(o.hn), r(o.cn), r(o.gates), r(o.cells), r(o.norm_ih), r(o.norm_hh), r(o.stats);
  return o;
}
Grads grads_of(const nb::tuple& t) {
  Reader r(t);
  r.done(17);
  Grads g;
  r(g.dy), r(g.dhn), r(g.dcn), r(g.dx), r(g.dh0), r(g.dc0);
  r(g.weight_ih), r(g.weight_hh), r(g.bias_ih), r(g.bias_hh), r(g.weight_hr), r(g.weight_ch), r(g.gain_ih), r(g.gain_hh), r(g.gain_c);
  r(g.flow_h), r(g.flow_c);
  return g;
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // caches of the Python side live until exit
  nb::class_<Layer>(m, "Layer")
      .def("__init__",
           [](Layer* self, int type, const std::string& gates, int64_t I, int64_t H, int64_t P, bool bias, bool peephole,
              bool layer_norm, bool projection, double zone_h, double zone_c, double scale_h, double scale_g, double clip) {
             new (self) Layer{Type(type), gates == "ifgo" ? Gates::ifgo : gates == "fgo" ? Gates::fgo : Gates::igo,
                              I, H, P, bias, peephole, layer_norm, projection, zone_h, zone_c, scale_h, scale_g, clip};
           });
  m.def("has", [](int type) { return isa().has(Type(type)); });
  m.def("width", [](const Layer& l) { return isa().width(l); });
  static PyType_Slot buffer[] = {{Py_bf_getbuffer, (void*)+[](PyObject* self, Py_buffer* view, int flags) {
                                    const auto* s = nb::inst_ptr<Scratch>(self);
                                    return PyBuffer_FillInfo(view, self, s->data(), Py_ssize_t(s->bytes()), 0, flags);
                                  }},
                                 {0, nullptr}};
  nb::class_<Scratch>(m, "Memory", nb::type_slots(buffer))
      .def(nb::init<size_t, double>())
      .def("data_ptr", [](const Scratch& s) { return (uintptr_t)s.data(); });
  m.def("poison", &Scratch::poison);
  m.def("forward", [](const Layer& l, const nb::tuple& params, const nb::tuple& input, const nb::tuple& output, bool train, int threads) {
    const Params p = params_of(params);
    const Input in = input_of(input);
    const Output out = output_of(output);
    const nb::gil_scoped_release release;
    forward(l, p, in, out, train, threads);
  });
  m.def("backward", [](const Layer& l, const nb::tuple& params, const nb::tuple& input, const nb::tuple& output, const nb::tuple& grads,
                       int threads) {
    const Params p = params_of(params);
    const Input in = input_of(input);
    const Output out = output_of(output);
    const Grads g = grads_of(grads);
    const nb::gil_scoped_release release;
    backward(l, p, in, out, g, threads);
  });
  nb::class_<Weights>(m, "Weights")
      .def("__init__",
           [](Weights* self, const Layer& l, const nb::tuple& params, int threads) {
             const Params p = params_of(params);
             const nb::gil_scoped_release release;
             new (self) Weights(l, p, threads);
           })
      .def("forward", [](const Weights& w, const nb::tuple& input, const nb::tuple& output, int threads) {
        const Input in = input_of(input);
        const Output out = output_of(output);
        const nb::gil_scoped_release release;
        w.forward(in, out, threads);
      });
  nb::class_<Stream>(m, "Stream")
      .def(nb::init<int64_t, int>())
      .def("add", [](Stream& s, const Layer& l, const nb::tuple& params, uintptr_t h, uintptr_t c, uintptr_t y) {
        s.add(l, params_of(params), (void*)h, (void*)c, (void*)y);
      })
      .def("step", [](Stream& s, uintptr_t x) {
        const nb::gil_scoped_release release;
        s.step((const void*)x);
      });
  nb::class_<Linear>(m, "Linear")
      .def("__init__",
           [](Linear* self, int64_t N, int64_t K, uintptr_t weight, int threads) {
             const nb::gil_scoped_release release;
             new (self) Linear(N, K, (const float*)weight, threads);
           })
      .def("run", [](const Linear& l, uintptr_t x, int64_t M, uintptr_t bias, uintptr_t y, int threads) {
        const nb::gil_scoped_release release;
        l.run((const float*)x, M, (const float*)bias, (float*)y, threads);
      });
  m.def("attend", [](const nb::tuple& sizes, const nb::tuple& tensors, const nb::tuple& strides, float scale, int threads) {
    Attend a;
    Reader s(sizes), t(tensors), d(strides);
    s.done(4), t.done(5), d.done(6);
    a.R = s.number(), a.N = s.number(), a.S = s.number(), a.W = s.number();
    t(a.query), t(a.keys), t(a.values), t(a.context), t(a.weights);
    a.k_r = d.number(), a.k_n = d.number(), a.k_s = d.number(), a.v_r = d.number(), a.v_n = d.number(), a.v_s = d.number();
    a.scale = scale;
    const nb::gil_scoped_release release;
    attend(a, threads);
  });
  m.def("best", [](const nb::tuple& sizes, const nb::tuple& tensors) {
    Best b;
    Reader s(sizes), t(tensors);
    s.done(4), t.done(5);
    b.S = s.number(), b.W = s.number(), b.V = s.number(), b.k = s.number();
    t(b.logp), t(b.total), t(b.value), t(b.parent), t(b.token);
    const nb::gil_scoped_release release;
    return best(b);
  });
  m.def("isa", [] { return std::string(isa().name); });
  m.def("instruction_sets", [] {
    int n = 0;
    const Isa* const* have = instruction_sets(&n);
    std::vector<std::string> names;
    for (int i = 0; i < n; i++) names.emplace_back(have[i]->name);
    return names;
  });
  m.def("peak", [](int type, int64_t rounds, int threads) {
    std::vector<double> done(threads);
    const nb::gil_scoped_release release;
    team_run(threads, [&](int i) { done[i] = isa().peak(Type(type), rounds); });
    double total = 0;
    for (const double d : done) total += d;
    return total;
  });
}
