// Turns accumulated tiles into results: vector by vector, a block a cycle, 16 channels of one
// pixel at a time through the requantization, into the activation memory or to the writer. So
// pixels come in the order in which they lie in memory.
//
// Cycles here are counted from the one in which an accumulator is read; the sums leave the
// accumulators at 2 and enter stage 0 of the requantization at 3.
module drain #(
    parameter int unsigned BLOCKS = 2,
    parameter int unsigned TILE = 256,
    parameter int unsigned ENTRIES = 16
) (
    input  logic                       clk,
    input  logic                       rst,

    input  logic                       tile_push,
    input  logic [206:0]               tile,
    input  logic                       tile_accumulated,  // the oldest one that is not drained is complete
    output logic                       tile_read,
    output logic                       tile_written,
    output logic [1:0]                 parameters_freed,

    output logic                       accumulator_half,
    output logic [$clog2(TILE)-1:0]    accumulator_place,
    input  logic [512*BLOCKS-1:0]      accumulated,       // two cycles later

    output logic [$clog2(ENTRIES)-1:0] bias_entry,
    input  logic [511:0]               bias,
    output logic [$clog2(ENTRIES)-1:0] multiplier_entry,
    input  logic [271:0]               multiplier,
    output logic [$clog2(ENTRIES)-1:0] rest_entry,
    input  logic [5:0]                 shift,
    input  logic [3:0]                 fraction,
    input  logic [1:0]                 activation,
    input  logic [16:0]                residual_multiplier,
    input  logic [16:0]                store_multiplier,
    input  logic [5:0]                 store_shift,

    output logic                       residual_read,     // at 18
    output logic [1:0]                 residual_bank,
    output logic [15:0]                residual_row,
    input  logic [511:0]               bank_data,         // four cycles later
    output logic                       code_write,        // at 36
    output logic [1:0]                 code_bank,
    output logic [15:0]                code_row,
    output logic [127:0]               codes,

    input  logic                       external_room,
    output logic                       external_push,     // at 16
    output logic [35:0]                external_address,
    output logic [2:0]                 external_beats,
    output logic [287:0]               external_values
);
  localparam int unsigned BITS = $clog2(TILE);
  localparam int unsigned ENTRY_BITS = $clog2(ENTRIES);
  localparam int unsigned BLOCK_BITS = $clog2(BLOCKS);
  // A residual is read at 18 where a code of 18 cycles before is written, at 36. That is a pixel of
  // another bank, but for the ends of lines: 18 pixels before (narrow) or 9 (wide).
  localparam int unsigned READ_TO_WRITE = 18;

  // The tile in work.
  logic queued, half, narrow, external, residual;
  logic [2:0] beats, unused_count;
  logic [3:0] entry;
  logic [7:0] target_group;
  logic [11:0] place_limit, x_limit, y_limit, width, tile_x, tile_y;
  logic [15:0] residual_base, residual_pixel_stride, residual_line_stride;
  logic [35:0] target_base;
  logic [15:0] target_pixel_stride, target_line_stride;
  fifo #(.WIDTH(207), .DEPTH(4)) tiles (
      .clk,
      .rst,
      .push(tile_push),
      .in(tile),
      .valid(queued),
      .out({half, narrow, external, residual, beats, entry, target_group, place_limit, x_limit,
            y_limit, width, tile_x, tile_y, residual_base, residual_pixel_stride,
            residual_line_stride, target_base, target_pixel_stride, target_line_stride}),
      .pop(tile_read_1),
      .count(unused_count)
  );

  // Where in it. The ends are compared a cycle ahead: a vector takes two cycles at least.
  logic running, start, tile_read_1, issue, conflict, line_end, picture_end, tile_end, vector_end;
  logic parity;
  logic [1:0] accumulated_tiles;
  logic [BLOCK_BITS-1:0] block, lane;
  logic [BITS-1:0] place;
  logic [11:0] x, y, column;
  assign vector_end = block == BLOCK_BITS'(BLOCKS - 1);
  assign lane = narrow ? block : block >> 1;
  assign parity = !narrow && block[0];
  assign column = x + 12'(lane);
  // The tile leaves the queue a cycle after it was read.
  assign start = !running && !tile_read_1 && queued && accumulated_tiles != '0;
  assign issue = running && !conflict && (!external || external_room);
  assign tile_read = issue && tile_end && vector_end;

  always_ff @(posedge clk) begin
    if (rst) begin
      running <= 1'b0;
      accumulated_tiles <= '0;
    end else begin
      accumulated_tiles <= accumulated_tiles + 2'(tile_accumulated) - 2'(tile_read);
      running <= start || (running && !tile_read);
    end
  end
  always_ff @(posedge clk) begin
    line_end <= x >= x_limit;
    picture_end <= x >= x_limit && y == y_limit;
    tile_end <= 12'(place) == place_limit || (x >= x_limit && y == y_limit);
    if (start) begin
      x <= tile_x;
      y <= tile_y;
      place <= '0;
      block <= '0;
    end else if (issue) begin
      block <= block + 1'b1;
      if (vector_end) begin
        x <= line_end ? '0 : x + 12'(narrow ? BLOCKS : BLOCKS / 2);
        y <= line_end ? y + 12'd1 : y;
        place <= place + 1'b1;
      end
    end
  end

  // 1: what goes with a pixel, where it is within the line.
  logic issue_1, valid_1, og_end_1, narrow_1, external_1, residual_1;
  logic [2:0] beats_1;
  logic [BLOCK_BITS-1:0] block_1;
  logic [ENTRY_BITS-1:0] entry_1, entry_2;
  logic [11:0] width_1, x_1, y_1;
  logic [9:0] group_1, external_group_1;
  logic [35:0] target_base_1;
  logic [15:0] target_pixel_stride_1, target_line_stride_1;
  logic [15:0] residual_base_1, residual_pixel_stride_1, residual_line_stride_1;
  assign accumulator_half = half;
  assign accumulator_place = place;
  assign valid_1 = issue_1 && x_1 < width_1;
  always_ff @(posedge clk) begin
    issue_1 <= issue && !rst;
    tile_read_1 <= tile_read && !rst;
    og_end_1 <= picture_end;
    narrow_1 <= narrow;
    external_1 <= external;
    residual_1 <= residual;
    beats_1 <= beats;
    block_1 <= block;
    entry_1 <= entry[ENTRY_BITS-1:0] + ENTRY_BITS'(parity);
    entry_2 <= entry_1;
    width_1 <= width;
    x_1 <= column;
    y_1 <= y;
    group_1 <= {2'd0, target_group} + 10'(parity);
    target_base_1 <= target_base;
    target_pixel_stride_1 <= target_pixel_stride;
    target_line_stride_1 <= target_line_stride;
    residual_base_1 <= residual_base;
    residual_pixel_stride_1 <= residual_pixel_stride;
    residual_line_stride_1 <= residual_line_stride;
  end
  // Of several groups each has four beats.
  assign external_group_1 = {group_1[7:0], 2'd0};

  // A read and a write of port b meet in one bank: the read comes a cycle later.
  logic [READ_TO_WRITE-1:1] writes;
  logic [1:0] write_bank;
  delay #(.WIDTH(2), .CYCLES(READ_TO_WRITE - 1)) banks_later (
      .clk, .rst, .in(x_1[1:0]), .out(write_bank)
  );
  always_ff @(posedge clk)
    if (rst) writes <= '0;
    else writes <= {writes[READ_TO_WRITE-2:1], valid_1 && !external_1};
  assign conflict = residual && writes[READ_TO_WRITE-1] && write_bank == column[1:0];

  // 11: where it is written and what is added.
  logic [35:0] target_11, residual_11;
  logic unused_residual;
  assign unused_residual = &residual_11[35:16];
  place place_target (
      .clk,
      .x(external_1 ? x_1 : x_1 >> 2),
      .y(y_1),
      .line_stride(target_line_stride_1),
      .pixel_stride(target_pixel_stride_1),
      .group(external_1 ? external_group_1 : group_1),
      .base(target_base_1),
      .address(target_11)
  );
  place place_residual (
      .clk,
      .x(x_1 >> 2),
      .y(y_1),
      .line_stride(residual_line_stride_1),
      .pixel_stride(residual_pixel_stride_1),
      .group(group_1),
      .base(36'(residual_base_1)),
      .address(residual_11)
  );

  logic valid_16, external_16, valid_18, residual_18;
  delay #(.WIDTH(1), .CYCLES(15), .RESET(1)) valid_to_16 (
      .clk, .rst, .in(valid_1), .out(valid_16)
  );
  delay #(.WIDTH(4), .CYCLES(15)) external_to_16 (
      .clk, .rst, .in({external_1, beats_1}), .out({external_16, external_beats})
  );
  delay #(.WIDTH(36), .CYCLES(5)) target_to_16 (
      .clk, .rst, .in(target_11), .out(external_address)
  );
  assign external_push = valid_16 && external_16;

  delay #(.WIDTH(1), .CYCLES(2), .RESET(1)) valid_to_18 (
      .clk, .rst, .in(valid_16), .out(valid_18)
  );
  delay #(.WIDTH(3), .CYCLES(17)) residual_to_18 (
      .clk, .rst, .in({residual_1, x_1[1:0]}), .out({residual_18, residual_bank})
  );
  delay #(.WIDTH(16), .CYCLES(7)) residual_row_to_18 (
      .clk, .rst, .in(residual_11[15:0]), .out(residual_row)
  );
  assign residual_read = valid_18 && residual_18;

  logic valid_36, external_36;
  delay #(.WIDTH(1), .CYCLES(18), .RESET(1)) valid_to_36 (
      .clk, .rst, .in(valid_18), .out(valid_36)
  );
  delay #(.WIDTH(1), .CYCLES(20)) external_to_36 (
      .clk, .rst, .in(external_16), .out(external_36)
  );
  delay #(.WIDTH(2), .CYCLES(18)) bank_to_36 (
      .clk, .rst, .in(residual_bank), .out(code_bank)
  );
  delay #(.WIDTH(16), .CYCLES(20)) target_to_36 (
      .clk, .rst, .in(external_address[15:0]), .out(code_row)
  );
  assign code_write = valid_36 && !external_36;

  // A write is in the memory two cycles after 36.
  logic read_38, og_end_38, narrow_38;
  delay #(.WIDTH(1), .CYCLES(37), .RESET(1)) read_to_38 (
      .clk, .rst, .in(tile_read_1), .out(read_38)
  );
  delay #(.WIDTH(2), .CYCLES(37)) og_end_to_38 (
      .clk, .rst, .in({og_end_1, narrow_1}), .out({og_end_38, narrow_38})
  );
  assign tile_written = read_38;
  assign parameters_freed = !(read_38 && og_end_38) ? 2'd0 : narrow_38 ? 2'd1 : 2'd2;

  // Parameters, each when its stage of the requantization asks for it (stage 0 is 3).
  assign bias_entry = entry_2;
  delay #(.WIDTH(ENTRY_BITS), .CYCLES(2)) entry_to_4 (
      .clk, .rst, .in(entry_2), .out(multiplier_entry)
  );
  delay #(.WIDTH(ENTRY_BITS), .CYCLES(5)) entry_to_9 (
      .clk, .rst, .in(multiplier_entry), .out(rest_entry)
  );
  logic [3:0] fraction_13, fraction_15, fraction_18;
  logic [1:0] activation_15;
  logic [16:0] residual_multiplier_21, store_multiplier_25;
  logic [5:0] store_shift_27;
  delay #(.WIDTH(4), .CYCLES(6)) fraction_to_13 (
      .clk, .rst, .in(fraction), .out(fraction_13)
  );
  delay #(.WIDTH(4), .CYCLES(2)) fraction_to_15 (
      .clk, .rst, .in(fraction_13), .out(fraction_15)
  );
  delay #(.WIDTH(4), .CYCLES(3)) fraction_to_18 (
      .clk, .rst, .in(fraction_15), .out(fraction_18)
  );
  delay #(.WIDTH(2), .CYCLES(8)) activation_to_15 (
      .clk, .rst, .in(activation), .out(activation_15)
  );
  delay #(.WIDTH(17), .CYCLES(14)) residual_multiplier_to_21 (
      .clk, .rst, .in(residual_multiplier), .out(residual_multiplier_21)
  );
  delay #(.WIDTH(17), .CYCLES(18)) store_multiplier_to_25 (
      .clk, .rst, .in(store_multiplier), .out(store_multiplier_25)
  );
  delay #(.WIDTH(6), .CYCLES(20)) store_shift_to_27 (
      .clk, .rst, .in(store_shift), .out(store_shift_27)
  );

  // 24, stage 21: the residual.
  logic residual_22;
  logic [1:0] residual_bank_22;
  logic [127:0] residual_23, residual_24;
  delay #(.WIDTH(3), .CYCLES(4)) residual_to_22 (
      .clk, .rst, .in({residual_read, residual_bank}), .out({residual_22, residual_bank_22})
  );
  always_ff @(posedge clk) begin
    residual_23 <= residual_22 ? bank_data[128*residual_bank_22+:128] : '0;
    residual_24 <= residual_23;
  end

  genvar i;
  generate
    for (i = 0; i < 16; i = i + 1) begin : g_lane
      // 3: the sum. Copies of the select, one a lane, spare it a fan-out of 512.
      (* keep = "true" *) logic [BLOCK_BITS-1:0] block_2;
      logic [31:0] sum;
      always_ff @(posedge clk) begin
        block_2 <= block_1;
        sum <= accumulated[512*block_2+32*i+:32];
      end
      requantize lane_requantize (
          .clk,
          .sum,
          .bias_0(bias[32*i+:32]),
          .multiplier_2(multiplier[17*i+:17]),
          .shift_7(shift),
          .fraction_13,
          .activation_15,
          .fraction_15,
          .fraction_18,
          .residual_21(residual_24[8*i+:8]),
          .residual_multiplier_21,
          .store_multiplier_25,
          .store_shift_27,
          .fixed(external_values[18*i+:18]),
          .code(codes[8*i+:8])
      );
    end
  endgenerate
endmodule
