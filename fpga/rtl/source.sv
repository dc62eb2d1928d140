// Brings the codes of a vector from the activation memory to the array: one address a lane,
// each to the bank that its column says. Latency from `enter` to `codes`: 11 cycles.
//
// No two lanes that read in one cycle want different rows of one bank: side by side they lie in
// different banks, also two apart (stride 2) where there are two of them; upsampled they lie in
// up to three banks, and two in one bank are the same pixel.
module source #(
    parameter int unsigned BLOCKS = 2
) (
    input  logic                  clk,
    input  logic [511:0]          descriptor,
    input  logic                  enter,
    input  logic                  low,
    input  logic                  high,
    input  logic [11:0]           x,
    input  logic [11:0]           y,
    input  logic [3:0]            kernel_x,
    input  logic [3:0]            kernel_y,
    input  logic                  segment,
    input  logic [7:0]            group,

    output logic [3:0]            bank_enable,
    output logic [63:0]           bank_row,
    input  logic [511:0]          bank_data,    // three cycles later

    output logic [128*BLOCKS-1:0] codes
);
  // 1: the coordinates of lane 0, and the segment's strides.
  logic signed [13:0] x_1, y_1, y_2;
  logic [15:0] line_stride_1, line_stride_2, line_stride_3, start_1, start_4;
  logic [8:0] pixel_stride_1, pixel_stride_2, pixel_stride_3;
  logic up_1, up_2, double_1, narrow_1, low_1, high_1;
  logic [11:0] width_1, width_2, height_1, height_2;
  logic [7:0] outside, outside_1;
  logic double;
  logic [13:0] stretched_x, stretched_y;
  assign double = descriptor[layout::CONVOLVE_STRIDE+:4] == 4'd2;
  assign stretched_x = double ? {1'b0, x, 1'b0} : {2'b0, x};
  assign stretched_y = double ? {1'b0, y, 1'b0} : {2'b0, y};
  always_ff @(posedge clk) begin
    x_1 <= stretched_x + 14'(kernel_x) - 14'(descriptor[layout::CONVOLVE_PAD_LEFT+:4]);
    y_1 <= stretched_y + 14'(kernel_y) - 14'(descriptor[layout::CONVOLVE_PAD_TOP+:4]);
    line_stride_1 <= segment ? descriptor[layout::CONVOLVE_SOURCE1_LINE_STRIDE+:16]
                             : descriptor[layout::CONVOLVE_SOURCE0_LINE_STRIDE+:16];
    pixel_stride_1 <= segment ? descriptor[layout::CONVOLVE_SOURCE1_PIXEL_STRIDE+:9]
                              : descriptor[layout::CONVOLVE_SOURCE0_PIXEL_STRIDE+:9];
    start_1 <= (segment ? descriptor[layout::CONVOLVE_SOURCE1_BASE+:16]
                        : descriptor[layout::CONVOLVE_SOURCE0_BASE+:16]) + 16'(group);
    up_1 <= segment ? descriptor[layout::CONVOLVE_SOURCE1_UPSAMPLE] : descriptor[layout::CONVOLVE_SOURCE0_UPSAMPLE];
    double_1 <= double;
    width_1 <= descriptor[layout::CONVOLVE_SOURCE_WIDTH+:12];
    height_1 <= descriptor[layout::CONVOLVE_SOURCE_HEIGHT+:12];
    outside_1 <= descriptor[layout::CONVOLVE_OUTSIDE+:8];
    narrow_1 <= descriptor[layout::CONVOLVE_NARROW];
    low_1 <= enter && low;
    high_1 <= enter && high;

    y_2 <= y_1;
    up_2 <= up_1;
    width_2 <= width_1;
    height_2 <= height_1;
    line_stride_2 <= line_stride_1;
    pixel_stride_2 <= pixel_stride_1;
    line_stride_3 <= line_stride_2;
    pixel_stride_3 <= pixel_stride_2;
  end
  delay #(.WIDTH(16), .CYCLES(3)) start_later (.clk, .rst(1'b0), .in(start_1), .out(start_4));
  delay #(.WIDTH(8), .CYCLES(9)) outside_later (
      .clk, .rst(1'b0), .in(outside_1), .out(outside)
  );

  // 3 to 5: the line.
  logic [11:0] line_3;
  logic [15:0] line_4, line_5;
  always_ff @(posedge clk) begin
    line_3 <= up_2 ? y_2[12:1] : y_2[11:0];
    line_4 <= 16'(line_3 * line_stride_3);
    line_5 <= line_4 + start_4;
  end

  // 2 to 6: the lanes.
  logic [BLOCKS-1:0] read_6, used_10, inside_10;
  logic [2*BLOCKS-1:0] bank_6, bank_10;
  logic [16*BLOCKS-1:0] row_6;
  genvar j;
  generate
    for (j = 0; j < BLOCKS; j = j + 1) begin : g_lane
      localparam bit UPPER = 2 * j >= BLOCKS;
      logic signed [13:0] x_2;
      logic used_1, used_2, inside_3, used_3, inside_6, used_6;
      logic [11:0] column_3;
      logic [1:0] bank;
      logic [15:0] quad_4, quad_5, row;
      assign used_1 = UPPER ? high_1 && narrow_1 : low_1;
      always_ff @(posedge clk) begin
        x_2 <= x_1 + (double_1 ? 14'(2 * j) : 14'(j));
        used_2 <= used_1;

        inside_3 <= !x_2[13] && !y_2[13] && x_2[12:0] < {1'b0, width_2}
                    && y_2[12:0] < {1'b0, height_2};
        used_3 <= used_2;
        column_3 <= up_2 ? x_2[12:1] : x_2[11:0];

        quad_4 <= 16'(column_3[11:2] * pixel_stride_3);
        quad_5 <= quad_4;
        row <= line_5 + quad_5;
      end
      delay #(.WIDTH(4), .CYCLES(3)) to_6 (
          .clk, .rst(1'b0), .in({inside_3, used_3, column_3[1:0]}), .out({inside_6, used_6, bank})
      );
      assign row_6[16*j+:16] = row;
      assign bank_6[2*j+:2] = bank;
      assign read_6[j] = inside_6 && used_6;
      delay #(.WIDTH(4), .CYCLES(4)) to_10 (
          .clk,
          .rst(1'b0),
          .in({inside_6, used_6, bank}),
          .out({inside_10[j], used_10[j], bank_10[2*j+:2]})
      );
      always_ff @(posedge clk)
        if (used_10[j])
          codes[128*j+:128] <= inside_10[j] ? bank_data[128*bank_10[2*j+:2]+:128] : {16{outside}};
    end
  endgenerate

  // 7: to the banks.
  integer b, k;
  always_ff @(posedge clk) begin
    for (b = 0; b < 4; b = b + 1) begin
      bank_enable[b] <= 1'b0;
      for (k = 0; k < BLOCKS; k = k + 1) begin
        if (read_6[k] && bank_6[2*k+:2] == 2'(b)) begin
          bank_enable[b] <= 1'b1;
          bank_row[16*b+:16] <= row_6[16*k+:16];
        end
      end
    end
  end
endmodule
