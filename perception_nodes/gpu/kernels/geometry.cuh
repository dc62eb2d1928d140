// From the network's input back to the source image, through letterbox and lens: the same as
// perception_nodes/core/geometry.py, in double precision.

#pragma once

#include "portable.cuh"

namespace {

// The way back to the source; intrinsics are fx, fy, cx, cy.
struct Placement {
    double pad[2], scale[2], size[2];
    double matrix[4], rectified[4], distortion[8];
    double fold_radius;
    int lens, fisheye;
};

INLINE Double limited(Double value, Double low, Double high) {
    return lesser(greater(value, low), high);
}

// Arc tangent of x >= 0, to two units in the last place (Cephes' atan, Moshier 1992).
INLINE Double arc_tangent(Double x) {
    Double base = 0.0, rest = 0.0;
    if (x > 2.41421356237309504880) {
        base = 1.57079632679489661923;
        rest = 6.123233995736765886130e-17;
        x = Double(-1.0) / x;
    } else if (x > 0.66) {
        base = 0.785398163397448309616;
        rest = 3.061616997868382943065e-17;
        x = (x - 1.0) / (x + 1.0);
    }
    Double z = x * x;
    Double p = -8.750608600031904122785e-1;
    p = p * z - 1.615753718733365076637e1;
    p = p * z - 7.500855792314704667340e1;
    p = p * z - 1.228866684490136173410e2;
    p = p * z - 6.485021904942025371773e1;
    Double q = z + 2.485846490142306297962e1;
    q = q * z + 1.650270098316988542046e2;
    q = q * z + 4.328810604912902668951e2;
    q = q * z + 4.853903996359136964868e2;
    q = q * z + 1.945506571482613964425e2;
    return base + (x * (z * p / q) + x + rest);
}

// Factor by which the lens moves a ray's image away from the centre.
INLINE Double radial(const Placement& p, Double r2) {
    const double* k = p.distortion;
    if (p.fisheye) {
        Double r = root(r2), theta = arc_tangent(r), t2 = theta * theta;
        Double polynomial = t2 * (t2 * (t2 * (t2 * k[3] + k[2]) + k[1]) + k[0]) + 1.0;
        return r > 1e-9 ? theta / r * polynomial : polynomial;
    }
    Double over = r2 * (r2 * (r2 * k[4] + k[1]) + k[0]) + 1.0;
    Double under = r2 * (r2 * (r2 * k[7] + k[6]) + k[5]) + 1.0;
    return over / under;
}

struct Point {
    Double x, y;
};

// Factor that shortens a ray to reach just up to the fold, beyond which the lens shows nothing; 1
// for a ray before the fold.
INLINE Double drawn_in(const Placement& p, Point ray) {
    Double radius = root(ray.x * ray.x + ray.y * ray.y);
    Double limit = Double(p.fold_radius) * (1 - 1e-9);
    return radius > limit ? limit / greater<Double>(radius, 1e-12) : Double(1.0);
}

// Projection of a ray through the lens, in source pixels, edge coordinates.
INLINE Point shown(const Placement& p, Point ray) {
    Double factor = drawn_in(p, ray), x = ray.x * factor, y = ray.y * factor;
    Double r2 = x * x + y * y, along = radial(p, r2), dx = 0.0, dy = 0.0;
    if (!p.fisheye) {
        Double p1 = p.distortion[2], p2 = p.distortion[3], two = 2.0;
        dx = two * p1 * x * y + p2 * (r2 + two * x * x);
        dy = p1 * (r2 + two * y * y) + two * p2 * x * y;
    }
    return {(x * along + dx) * p.matrix[0] + p.matrix[2] + 0.5,
            (y * along + dy) * p.matrix[1] + p.matrix[3] + 0.5};
}

// Replaces a box of the rectified image, x1 y1 x2 y2, by the box in the source image that bounds
// its corners and edge middles after projection through the lens.
INLINE void bend(const Placement& p, Double& left, Double& top, Double& right, Double& bottom) {
    const double* m = p.rectified;
    Point low = {(left - 0.5 - m[2]) / m[0], (top - 0.5 - m[3]) / m[1]};
    Point high = {(right - 0.5 - m[2]) / m[0], (bottom - 0.5 - m[3]) / m[1]};
    Point nearest = {limited(0.0, low.x, high.x), limited(0.0, low.y, high.y)};
    if (drawn_in(p, nearest) < 1.0) {  // the box is wholly beyond the fold
        left = top = right = bottom = 0.0;
        return;
    }
    left = top = 1e300;
    right = bottom = -1e300;
#pragma unroll 1
    for (int i = 0; i < 9; i++) {
        if (i == 4) continue;
        Double across = 0.5 * (i % 3), down = 0.5 * (i / 3);
        Point at = shown(p, {low.x + (high.x - low.x) * across, low.y + (high.y - low.y) * down});
        left = lesser(left, at.x);
        top = lesser(top, at.y);
        right = greater(right, at.x);
        bottom = greater(bottom, at.y);
    }
}

// Converts a box of the network's input, x1 y1 x2 y2, to source pixels, clipped to the source.
INLINE void box_to_source(const Placement& p, const float* box, float* out) {
    Double width = p.size[0], height = p.size[1];
    Double left = (Double(box[0]) - p.pad[0]) / p.scale[0];
    Double top = (Double(box[1]) - p.pad[1]) / p.scale[1];
    Double right = (Double(box[2]) - p.pad[0]) / p.scale[0];
    Double bottom = (Double(box[3]) - p.pad[1]) / p.scale[1];
    // With a lens the box is clipped before bending too: nothing outside the image must be bent.
    for (int turn = 0; turn < 1 + p.lens; turn++) {
        if (turn == 1) bend(p, left, top, right, bottom);
        left = limited(left, 0.0, width);
        top = limited(top, 0.0, height);
        right = limited(right, 0.0, width);
        bottom = limited(bottom, 0.0, height);
    }
    out[0] = float(left.value);
    out[1] = float(top.value);
    out[2] = float(right.value);
    out[3] = float(bottom.value);
}

}  // namespace
