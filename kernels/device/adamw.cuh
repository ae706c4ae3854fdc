// adamw.cuh - AdamW of one element, and the factors that depend on the step alone: what adamw.cu and adamw8.cu share.
//
// The factors are made in double on the host, in PyTorch's order, so that five steps agree to the last bits and a
// thousand do not drift.
#pragma once
#include "adamw.h"
#include "device/gradient.cuh"

struct AdamwFactors {
    float keep, take1, beta2, take2, step_size, root, eps;
};

inline AdamwFactors adamw_factors(const lc_adamw_step& s) {
    AdamwFactors f;
    f.keep = (float)(1. - s.lr * s.weight_decay);
    f.take1 = (float)(1. - s.beta1);
    f.beta2 = (float)s.beta2;
    f.take2 = (float)(1. - s.beta2);
    f.step_size = (float)(s.lr / (1. - pow(s.beta1, s.step)));
    f.root = (float)sqrt(1. - pow(s.beta2, s.step));
    f.eps = (float)s.eps;
    return f;
}

// g is clipped; root_v becomes sqrt(v).
LC_INLINE void adamw_element(const AdamwFactors& f, float g, float& w, float& m, float& v, float& root_v) {
    w *= f.keep;
    m += f.take1 * (g - m);
    v = v * f.beta2 + f.take2 * g * g;
    root_v = sqrtf(v);
    w -= f.step_size * (m / (root_v / f.root + f.eps));
}
