"""Colour of every surface: procedural texture, sunlight, shadow, sky and haze, one compiled pass per image."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8

from pipelines.synth.ground import HALF_SIZE_M, ISLAND, KERB, PAINT_MARK, RESOLUTION_M, TERRAIN, compiled
from pipelines.synth.shapes import Material

SKY: Final = -1
GROUND: Final = -2
"""A surface number is the triangle's, or SKY, or GROUND - ground code."""
Rgb = tuple[float, float, float]

_PAINT, _GLASS, _FACADE = int(Material.PAINT), int(Material.GLASS), int(Material.FACADE)
_FOLIAGE, _BARK, _STRIPES = int(Material.FOLIAGE), int(Material.BARK), int(Material.STRIPES)
_BRICK, _RIBS, _CLOTH = int(Material.BRICK), int(Material.RIBS), int(Material.CLOTH)


@compiled
def chance(x: int, y: int, z: int) -> float:
    """A number in [0, 1) that depends on three integers only."""
    value = (x * 374761393 + y * 668265263 + z * 1440662683) & 0xFFFFFFFF
    value = ((value ^ (value >> 13)) * 1274126177) & 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((value ^ (value >> 15)) & 0xFFFFFF) / 16777216.0


@compiled
def noise(x: float, y: float, z: float) -> float:
    """Smooth noise in [0, 1) with features one unit apart."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    ix, iy, iz = int(fx), int(fy), int(fz)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                weight = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
                total += weight * chance(ix + a, iy + b, iz + c)
    return total


@compiled
def grain(x: float, y: float, z: float, frequency: float, footprint_m: float) -> float:
    """Noise around 0 (-0.5 .. 0.5) that fades where one pixel covers more than a feature."""
    return (noise(x * frequency, y * frequency, z * frequency) - 0.5) / (1.0 + (footprint_m * frequency) ** 2)


@compiled
def mark_cover(ground: UInt8[np.ndarray, "h w"], x: float, y: float) -> float:
    """Share of road paint around a point, 0 .. 1, smooth across the cells of the raster."""
    column, row = (x + HALF_SIZE_M) / RESOLUTION_M - 0.5, (y + HALF_SIZE_M) / RESOLUTION_M - 0.5
    i, j = int(np.floor(column)), int(np.floor(row))
    if i < 0 or j < 0 or i + 1 >= ground.shape[1] or j + 1 >= ground.shape[0]:
        return 0.0
    u, v = column - i, row - j
    cover = 0.0
    for a in range(2):
        for b in range(2):
            if ground[j + b, i + a] == PAINT_MARK:
                cover += (u if a else 1 - u) * (v if b else 1 - v)
    return cover


@compiled
def ground_color(ground: UInt8[np.ndarray, "h w"], code: int, x: float, y: float, footprint_m: float) -> Rgb:
    """Reflectance of the ground at a point."""
    fine = grain(x, y, 0.0, 14.0, footprint_m)
    coarse = noise(x * 0.35, y * 0.35, 7.5)
    if code <= PAINT_MARK:
        cover = mark_cover(ground, x, y)
        tone = (1 - cover) * (0.135 + 0.05 * coarse + 0.09 * fine) + cover * (0.72 + 0.2 * fine - 0.15 * coarse)
        return tone, tone, tone * (1.05 - 0.1 * cover)
    if code == TERRAIN:
        bare = min(1.0, max(0.0, 2.5 * noise(x * 0.22, y * 0.22, 3.5) - 0.9))
        blades = 1.0 + 1.3 * fine + 0.7 * grain(x, y, 2.0, 5.0, footprint_m)
        return (0.21 + 0.15 * bare) * blades, (0.29 - 0.02 * bare) * blades, (0.075 + 0.1 * bare) * blades
    if code == ISLAND:
        row = int(np.floor(y / 0.22))
        across, along = y / 0.22 - row, x / 0.44 + 0.5 * (row % 2)
        joint = 1.0 if footprint_m > 0.1 or (across > 0.1 and along - np.floor(along) > 0.06) else 0.55
        tone = joint * (0.85 + 0.35 * chance(row, int(np.floor(along)), 11)) * (1.0 + 0.3 * fine)
        return 0.40 * tone, 0.20 * tone, 0.16 * tone
    tile_x, tile_y = np.floor(x / 0.8), np.floor(y / 0.8)
    joint = 1.0
    if code != KERB and footprint_m < 0.15 and (x / 0.8 - tile_x < 0.05 or y / 0.8 - tile_y < 0.05):
        joint = 0.6
    tone = (0.46 if code == KERB else 0.34) * joint * (0.88 + 0.2 * chance(int(tile_x), int(tile_y), 5)) + 0.07 * fine
    return tone * 1.04, tone, tone * 0.93


@compiled
def facade_color(base: Rgb, along: float, height: float, number: int, footprint_m: float) -> Rgb:
    """Plaster or stone with a grid of windows, a plinth and ledges between storeys."""
    column, storey = np.floor(along / 2.4), np.floor(height / 3.2)
    u, v = along / 2.4 - column, height / 3.2 - storey
    dice = chance(int(column), int(storey), number)
    if 0.2 < u < 0.8 and 0.28 < v < 0.82 and dice > 0.08:
        if u < 0.24 or u > 0.76 or v < 0.32 or v > 0.78 or abs(u - 0.5) < 0.02:
            return 0.6, 0.6, 0.57
        shine = 0.04 + 0.22 * dice * v
        return shine * 0.75, shine * 0.95, shine * 1.15
    tone = (
        0.9
        + 0.35 * grain(along, height, float(number), 9.0, footprint_m)
        + 0.2 * (noise(along * 0.5, height * 0.3, number) - 0.5)
    )
    if v > 0.95 or height < 0.6:
        tone *= 0.72
    return base[0] * tone, base[1] * tone, base[2] * tone


@compiled
def surface_color(material: int, base: Rgb, p: Rgb, axis: int, number: int, footprint_m: float) -> Rgb:
    """Reflectance of a thing's surface.

    Args:
        material: see `Material`.
        base: RGB reflectance.
        p: point in the frame of the thing, metres.
        axis: the axis (0 x, 1 y, 2 z) that the surface faces most, in the frame of the thing.
        number: number of the thing.
        footprint_m: size of a pixel on the surface.
    """
    x, y, z = p
    along = y if axis == 0 else x
    if material == _FACADE and axis != 2:
        return facade_color(base, along, z, number, footprint_m)
    fine = grain(x, y, z + number, 11.0, footprint_m)
    tone = 1.0 + 0.2 * fine
    if material == _FOLIAGE:
        clumps = noise(x * 2.3, y * 2.3, z * 2.3 + number)
        leaves = 0.5 + 1.6 * (noise(x * 7.0, y * 7.0, z * 7.0) - 0.5) + 1.2 * grain(x, y, z, 17.0, footprint_m)
        tone = max(0.12, 0.45 + 0.9 * clumps * clumps + 0.9 * leaves * clumps)
        return base[0] * tone * (0.7 + 0.8 * clumps), base[1] * tone, base[2] * tone
    if material == _STRIPES:
        if (y + z) / 0.5 - np.floor((y + z) / 0.5) < 0.5:
            return 0.78 * tone, 0.77 * tone, 0.74 * tone
    elif material == _BRICK:
        row = int(np.floor(z / 0.16))
        column = along / 0.36 + 0.5 * (row % 2)
        if footprint_m < 0.08 and (z / 0.16 - row < 0.14 or column - np.floor(column) < 0.07):
            return 0.45, 0.43, 0.40
        tone = 0.7 + 0.6 * chance(row, int(np.floor(column)), number) + 0.2 * fine
    elif material == _RIBS:
        tone *= 0.7 if along / 0.42 - np.floor(along / 0.42) < 0.22 else 1.0
    elif material == _CLOTH:
        tone = 1.0 + 0.7 * (noise(x * 4.0, y * 4.0, z * 3.0 + number) - 0.5) + 0.3 * fine
    elif material == _BARK:
        tone = 0.6 + 0.9 * noise(x * 9.0, y * 9.0, z * 2.0)
    elif material == _GLASS:
        frame = x / 1.35 - np.floor(x / 1.35)
        tone = 0.35 if frame < 0.06 and axis == 1 else 0.8 + 0.8 * noise(x * 0.9, y * 0.9 + z, number)
    elif material == _PAINT:
        tone = 0.98 + 0.25 * (noise(x * 0.9, y, z * 1.5 + number) - 0.5) - (0.3 if z < 0.4 else 0.0)
        if axis == 1 and x / 1.1 - np.floor(x / 1.1) < 0.025:
            tone *= 0.6
    return base[0] * tone, base[1] * tone, base[2] * tone


@compiled
def sky_color(dx: float, dy: float, dz: float, sky: Float32[np.ndarray, " 3"], turn: float) -> Rgb:
    """Sky in a direction: pale at the horizon, with clouds."""
    rise = min(1.0, max(0.0, dz) * 2.2)
    cloud = min(
        1.0,
        max(
            0.0, 1.6 * noise(dx * 4.0 + turn, dy * 4.0, dz * 9.0) + 0.5 * noise(dx * 11.0, dy * 11.0, dz * 24.0) - 0.95
        ),
    )
    pale = max(1.0 - rise, cloud)
    return sky[0] + (0.88 - sky[0]) * pale, sky[1] + (0.89 - sky[1]) * pale, sky[2] + (0.9 - sky[2]) * pale


class Seen(NamedTuple):
    """What each pixel of an image sees."""

    surface: Int32[np.ndarray, " n"]
    """Triangle, SKY or GROUND - code."""
    distance_m: Float32[np.ndarray, " n"]
    """Along the ray; inf for sky."""
    local_m: Float32[np.ndarray, "n 3"]
    """Hit point in the frame of the thing; of the world for the ground."""
    normal: Float32[np.ndarray, "n 3"]
    """Unit normal towards the camera, world frame."""
    is_lit: Bool[np.ndarray, " n"]
    """Whether the sun reaches the point."""
    directions: Float32[np.ndarray, "n 3"]
    """Unit ray directions, world frame."""


class Coat(NamedTuple):
    """How the triangles of a world look."""

    axis: UInt8[np.ndarray, " t"]
    """Axis that each triangle faces most in its thing's frame."""
    material: UInt8[np.ndarray, " t"]
    color: Float32[np.ndarray, "t 3"]
    number: Int32[np.ndarray, " t"]
    """Thing of each triangle."""


class Daylight(NamedTuple):
    """Where light comes from."""

    sun: Float[np.ndarray, " 3"]
    """Unit vector towards the sun."""
    light: Float32[np.ndarray, "3 3"]
    """RGB of sun, sky light and sky."""


@compiled
def shade(
    seen: Seen, coat: Coat, ground: UInt8[np.ndarray, "h w"], daylight: Daylight, pixel_rad: float, salt: int
) -> UInt8[np.ndarray, "n 3"]:
    """Shades one image.

    Args:
        seen: what each pixel sees.
        coat: look of the triangles.
        ground: raster of ground codes.
        daylight: sun and sky.
        pixel_rad: angle of a pixel.
        salt: seed of the sensor noise.

    Returns:
        (N, 3) BGR.
    """
    surface, distance_m, local_m, normal, is_lit, directions = seen
    axis, material, color, number = coat
    sun, light = daylight
    image = np.empty((len(surface), 3), np.uint8)
    for i in range(len(surface)):
        hit = surface[i]
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        horizon = sky_color(dx, dy, max(0.0, dz), light[2], salt * 0.37)
        rgb = np.empty(3)
        rgb[0], rgb[1], rgb[2] = horizon
        if hit != SKY:
            slant = max(0.08, abs(dx * normal[i, 0] + dy * normal[i, 1] + dz * normal[i, 2]))
            footprint = distance_m[i] * pixel_rad / slant
            p = (local_m[i, 0], local_m[i, 1], local_m[i, 2])
            soft = 0.0
            if hit <= GROUND:
                base = ground_color(ground, GROUND - hit, p[0], p[1], footprint)
            else:
                paint = (color[hit, 0], color[hit, 1], color[hit, 2])
                base = surface_color(material[hit], paint, p, axis[hit], number[hit], footprint)
                soft = 0.35 if material[hit] == _FOLIAGE else 0.0
            facing = normal[i, 0] * sun[0] + normal[i, 1] * sun[1] + normal[i, 2] * sun[2]
            direct = max(soft, facing) if is_lit[i] else 0.3 * soft
            open_sky = 0.55 + 0.45 * normal[i, 2]
            mirror = 0.0
            if hit >= 0 and (material[hit] == _GLASS or material[hit] == _PAINT):
                mirror = (0.10 if material[hit] == _PAINT else 0.22) * max(0.0, 0.35 + 0.65 * normal[i, 2])
            clear = np.exp(-distance_m[i] / 400.0)
            for c in range(3):
                bright = base[c] * (1.35 * direct * light[0, c] + open_sky * light[1, c]) + mirror * light[2, c]
                rgb[c] = bright * clear + (1 - clear) * 0.85
        for c in range(3):
            value = min(1.0, max(0.0, rgb[c])) ** 0.4545 + 0.025 * (chance(i, c, salt) - 0.5)
            image[i, 2 - c] = int(min(255.0, max(0.0, 255.0 * value + 0.5)))
    return image
