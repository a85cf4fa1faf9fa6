// A photo, uint8 RGB, scaled into the top left of a canvas; the rest of the canvas is black.
//
// One thread a pixel of the canvas. Sums are of integers, so the result is exact, rounded half up, and the same on
// every GPU. Rows of the photo may lie apart, and be those of a part of a greater picture.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

struct Photo {
    const u8 *rgb;
    long long row_bytes;
    u32 h, w;
};

struct Canvas {
    u8 *rgb;
    u32 h, w;                  // of the canvas
    u32 resized_h, resized_w;  // of the photo on it
};

// Each pixel is the mean of what it covers. A pixel x covers [x W, (x + 1) W) in units of 1 / w of a pixel of the photo,
// whose pixel i is [i w, (i + 1) w).
__device__ static void shrink(const Photo &photo, const Canvas &canvas, u32 y, u32 x, u8 *rgb)
{
    const u32 w = canvas.resized_w, h = canvas.resized_h;
    const u32 left = x * photo.w, right = left + photo.w, top = y * photo.h, bottom = top + photo.h;
    u64 sum[3] = {0, 0, 0};
    for (u32 j = top / h; j * h < bottom; ++j) {
        const u8 *row = photo.rgb + j * photo.row_bytes;
        u32 of_row[3] = {0, 0, 0};  // at most 255 photo.w
        for (u32 i = left / w; i * w < right; ++i) {
            const u32 begin = i * w > left ? i * w : left, end = (i + 1) * w < right ? (i + 1) * w : right;
            for (int c = 0; c < 3; ++c)
                of_row[c] += (end - begin) * row[3 * i + c];
        }
        const u32 begin = j * h > top ? j * h : top, end = (j + 1) * h < bottom ? (j + 1) * h : bottom;
        for (int c = 0; c < 3; ++c)
            sum[c] += (u64)(end - begin) * of_row[c];
    }
    const u64 area = (u64)photo.h * photo.w;
    for (int c = 0; c < 3; ++c)
        rgb[c] = (u8)((2 * sum[c] + area) / (2 * area));
}

// Where the centre of pixel x of w lies among the centres of n pixels: the one before, and 2 w times the way to the next.
__device__ static void place(u32 x, u32 w, u32 n, u32 *before, u32 *way)
{
    const long long at = (long long)(2 * x + 1) * n - w, last = 2LL * w * (n - 1);
    const u64 inside = at < 0 ? 0 : at > last ? last : at;
    *before = (u32)(inside / (2 * w));
    *way = (u32)(inside % (2 * w));
}

// Each pixel lies between the centres of four.
__device__ static void grow(const Photo &photo, const Canvas &canvas, u32 y, u32 x, u8 *rgb)
{
    const u32 w2 = 2 * canvas.resized_w, h2 = 2 * canvas.resized_h;
    u32 i, j, right, down;
    place(x, canvas.resized_w, photo.w, &i, &right);
    place(y, canvas.resized_h, photo.h, &j, &down);
    const u8 *above = photo.rgb + j * photo.row_bytes + 3 * i, *below = above + (down ? photo.row_bytes : 0);
    const u32 next = right ? 3 : 0;
    for (int c = 0; c < 3; ++c) {
        const u64 upper = (w2 - right) * above[c] + right * above[c + next];
        const u64 lower = (w2 - right) * below[c] + right * below[c + next];
        const u64 area = (u64)w2 * h2;
        rgb[c] = (u8)((2 * ((h2 - down) * upper + down * lower) + area) / (2 * area));
    }
}

extern "C" __global__ void place_photo(
    const u8 *photo_rgb, long long row_bytes, u32 photo_h, u32 photo_w,
    u8 *canvas_rgb, u32 canvas_h, u32 canvas_w, u32 resized_h, u32 resized_w)
{
    const Photo photo = {photo_rgb, row_bytes, photo_h, photo_w};
    const Canvas canvas = {canvas_rgb, canvas_h, canvas_w, resized_h, resized_w};
    const u32 x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= canvas.w || y >= canvas.h)
        return;
    u8 *rgb = canvas.rgb + 3 * ((u64)y * canvas.w + x);
    if (x >= canvas.resized_w || y >= canvas.resized_h)
        rgb[0] = rgb[1] = rgb[2] = 0;
    else if (photo.w > canvas.resized_w || photo.h > canvas.resized_h)
        shrink(photo, canvas, y, x, rgb);
    else
        grow(photo, canvas, y, x, rgb);
}
